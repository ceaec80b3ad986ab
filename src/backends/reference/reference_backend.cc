// The oracle: every op as its formula, in double, one thread. BF16 storage is rounded where the CPU backend's
// is.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backends/backend.h"
#include "backends/reference/cache_rows.h"
#include "backends/reference/elements.h"
#include "backends/reference/reference_int8.h"
#include "backends/reference/reference_ops.h"
#include "core/check.h"

namespace winnow {
namespace {

// Row-major, of the compute dtype.
class ReferenceWeight final : public Weight {
 public:
  ReferenceWeight(DType dtype, std::int64_t out_features, std::int64_t in_features)
      : buffer_(Buffer::host(out_features * dtype_bytes(dtype, in_features))),
        view_{buffer_.as<>(), dtype, out_features, in_features} {}

  std::int64_t out_features() const override { return view_.rows; }
  std::int64_t in_features() const override { return view_.cols; }
  std::int64_t bytes() const override { return buffer_.bytes(); }
  const MatrixView& view() const { return view_; }

 private:
  Buffer buffer_;
  MatrixView view_;
};

class ReferenceBackend final : public Backend {
 public:
  explicit ReferenceBackend(Precision precision) : precision_(precision) {}

  std::string description() const override {
    return std::string("reference, 1 thread, ") + precision_name(precision_);
  }
  Precision precision() const override { return precision_; }
  Buffer allocate(std::int64_t bytes) override { return Buffer::host(bytes); }

  std::unique_ptr<Weight> pack(std::int64_t out_features, std::int64_t in_features,
                               const RowReader& reader) override {
    if (precision_ == Precision::kInt8) {
      return std::make_unique<reference::Int8Weight>(out_features, in_features, reader);
    }
    auto weight = std::make_unique<ReferenceWeight>(compute_dtype(), out_features, in_features);
    std::vector<float> row(static_cast<std::size_t>(in_features));
    for (std::int64_t r = 0; r < out_features; ++r) {
      reader(r, r + 1, row);
      reference::set_row(weight->view(), r, {row.begin(), row.end()});
    }
    return weight;
  }

  void norm(const NormParams& params) override { reference::norm(params); }
  void linear(const LinearParams& params) override {
    if (precision_ == Precision::kInt8) {
      return reference::linear(params, static_cast<const reference::Int8Weight&>(*params.weight));
    }
    reference::linear(params, static_cast<const ReferenceWeight*>(params.weight)->view());
  }
  void rope_append(const RopeAppendParams& params) override {
    check(params.qkv.dtype == compute_dtype(), "rope_append: qkv is of the compute dtype");
    reference::rope_append(params);
  }
  void attention(const AttentionParams& params) override {
    check(params.q.dtype == compute_dtype(), "attention: q is of the compute dtype");
    reference::attention(params);
  }
  void attention_probs(const AttentionProbsParams& params) override { reference::attention_probs(params); }
  std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams& params) override {
    return reference::make_planner(params);
  }
  void own_window_scores(const WindowScoresParams& params) override {
    check(params.q.dtype == compute_dtype(), "window_scores: q is of the compute dtype");
    reference::window_scores(params);
  }
  void activation(const ActivationParams& params) override { reference::activation(params); }
  void convert(const MatrixView& x, const MatrixView& y) override { reference::convert(x, y); }
  void row_norms(const MatrixView& x, std::span<float> norms) override { reference::row_norms(x, norms); }
  void keep_rows(const MatrixView& x, std::span<const std::int64_t> rows) override {
    reference::keep_rows(x, rows);
  }

  void reserve(LayerKv& kv, std::int64_t capacity) override {
    if (capacity > kv.capacity) resize(kv, capacity);
  }
  std::int64_t kv_bytes(std::int64_t kv_heads, std::int64_t head_dim, std::int64_t capacity) const override {
    return 2 * capacity * dtype_bytes(compute_dtype(), kv_heads * head_dim);
  }
  std::int64_t q8_bytes(std::int64_t kv_heads, std::int64_t head_dim, std::int64_t capacity) const override {
    return 2 * capacity * dtype_bytes(DType::kF32, kv_heads * head_dim);  // as numbers (cache_rows.h)
  }
  void unpack(const LayerKv& q8, LayerKv& to) override {
    reference::convert(cache_view(q8, q8.k).slice(0, q8.rows), cache_view(to, to.k).slice(0, q8.rows));
    reference::convert(cache_view(q8, q8.v).slice(0, q8.rows), cache_view(to, to.v).slice(0, q8.rows));
    to.positions = q8.positions;
    to.rows = q8.rows;
  }
  void keep_rows(LayerKv& kv, std::span<const std::int64_t> rows) override {
    const auto kept = static_cast<std::int64_t>(rows.size());
    reference::keep_rows(cache_view(kv, kv.k).slice(0, kv.rows), rows);
    reference::keep_rows(cache_view(kv, kv.v).slice(0, kv.rows), rows);
    for (std::int64_t i = 0; i < kept; ++i) kv.positions[i] = kv.positions[rows[i]];
    kv.positions.resize(rows.size());
    kv.rows = kept;
    resize(kv, kept);
  }

 private:
  MatrixView cache_view(const LayerKv& kv, const Buffer& buffer) const {
    return {buffer.as<>(), reference::stored_dtype(kv, compute_dtype()), kv.capacity,
            kv.kv_heads * kv.head_dim};
  }

  // Moves the cached rows into buffers of exactly `capacity` rows.
  void resize(LayerKv& kv, std::int64_t capacity) {
    const std::int64_t row_bytes =
        dtype_bytes(reference::stored_dtype(kv, compute_dtype()), kv.kv_heads * kv.head_dim);
    for (Buffer* buffer : {&kv.k, &kv.v}) {
      Buffer resized = allocate(capacity * row_bytes);
      std::copy_n(buffer->as<std::byte>(), kv.rows * row_bytes, resized.as<std::byte>());
      *buffer = std::move(resized);
    }
    kv.capacity = capacity;
  }

  Precision precision_;
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend(Precision precision) {
  return std::make_unique<ReferenceBackend>(precision);
}

}  // namespace winnow
