// The CPU backend: splits rows over threads and calls the kernels.
#include <omp.h>

#include <algorithm>
#include <cstring>

#include "backends/backend.h"
#include "backends/cpu/attention.h"
#include "backends/cpu/block_planner.h"
#include "backends/cpu/decode_attention.h"
#include "backends/cpu/gemm_onednn.h"
#include "backends/cpu/int8_gemm.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/kv_layout.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/q8_cache.h"
#include "backends/cpu/stored_blocks.h"
#include "backends/cpu/widened_gemm.h"
#include "backends/weight_forms.h"
#include "core/check.h"

namespace winnow {
namespace cpu {
namespace {

class CpuBackend final : public Backend, public WeightForms {
 public:
  CpuBackend(Precision precision, int threads)
      : precision_(precision), threads_(threads), gemm_(precision, threads), team_(threads) {
    if (precision == Precision::kInt8) int8_gemm_ = std::make_unique<Int8Gemm>(threads);
    if (precision == Precision::kBF16 && !has_bf16_products()) {
      widened_gemm_ = std::make_unique<WidenedGemm>(threads);
    }
  }

  std::string description() const override {
    return fmt::format("cpu, {} thread{}, {}, attention on {}", threads_, threads_ == 1 ? "" : "s",
                       precision_name(precision_), choose_tile_kernels(compute_dtype(), 64).name);
  }
  Precision precision() const override { return precision_; }
  Buffer allocate(std::int64_t bytes) override { return Buffer::host(bytes); }

  std::unique_ptr<Weight> pack(std::int64_t out_features, std::int64_t in_features,
                               const RowReader& reader) override {
    return pack_stored(out_features, in_features, reader, {});
  }
  std::unique_ptr<Weight> pack_stored(std::int64_t out_features, std::int64_t in_features,
                                      const RowReader& reader, std::span<const StoredRows> stored) override {
    if (int8_gemm_ != nullptr) return int8_gemm_->pack(out_features, in_features, reader);
    if (widened_gemm_ != nullptr) return widened_gemm_->pack(out_features, in_features, reader, stored);
    return gemm_.pack(out_features, in_features, reader, stored);
  }
  std::int64_t packed_bytes(std::int64_t elements) const override {
    if (int8_gemm_ != nullptr) return elements;
    return dtype_bytes(widened_gemm_ != nullptr ? DType::kF32 : compute_dtype(), elements);
  }
  std::optional<std::int64_t> decode_form_bytes(DType dtype, std::int64_t rows,
                                                std::int64_t columns) const override {
    return precision_ == Precision::kBF16 ? stored_bytes(dtype, rows, columns) : std::nullopt;
  }
  void together(const std::function<void()>& body) override { team_.open(body); }

  void norm(const NormParams& p) override {
    check(p.x.rows == p.y.rows && p.x.cols == p.y.cols, "norm: shapes differ");
    parallel_rows(threads_, p.x.rows,
                  [&](std::int64_t begin, std::int64_t end) { norm_rows(p, begin, end); });
  }
  void linear(const LinearParams& p) override {
    if (int8_gemm_ != nullptr) return int8_gemm_->linear(p);
    if (widened_gemm_ != nullptr) return widened_gemm_->linear(p);
    gemm_.linear(p);
  }

  void rope_append(const RopeAppendParams& p) override {
    const std::int64_t first = room_for(p);
    parallel_rows(threads_, p.qkv.rows,
                  [&](std::int64_t begin, std::int64_t end) { rope_append_rows(p, first, begin, end); });
    appended(p);
  }
  void rope_append_each(std::span<const RopeAppendParams> each) override {
    parallel_rows(threads_, static_cast<std::int64_t>(each.size()),
                  [&](std::int64_t begin, std::int64_t end) {
                    for (const RopeAppendParams& p : each.subspan(begin, end - begin)) {
                      rope_append_rows(p, room_for(p), 0, p.qkv.rows);
                      appended(p);
                    }
                  });
  }

  void attention(const AttentionParams& p) override {
    if (DecodeAttention::takes(p, compute_dtype())) return decode_attention_.run({&p, 1}, threads_);
    cpu::attention(p, choose_tile_kernels(compute_dtype(), p.kv->head_dim), threads_);
  }
  void attention_each(std::span<const AttentionParams> each) override {
    const bool all = std::all_of(each.begin(), each.end(), [&](const AttentionParams& p) {
      return DecodeAttention::takes(p, compute_dtype());
    });
    if (all) return decode_attention_.run(each, threads_);
    for (const AttentionParams& p : each) attention(p);
  }
  void attention_probs(const AttentionProbsParams& p) override {
    cpu::attention_probs(p, choose_tile_kernels(compute_dtype(), p.kv->head_dim), threads_);
  }
  std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams& p) override {
    return cpu::make_planner(p, choose_tile_kernels(compute_dtype(), p.kv->head_dim), threads_);
  }
  void own_window_scores(const WindowScoresParams& p) override {
    cpu::window_scores(p, choose_tile_kernels(compute_dtype(), p.kv->head_dim), threads_);
  }

  void activation(const ActivationParams& p) override {
    parallel_rows(threads_, p.x.rows,
                  [&](std::int64_t begin, std::int64_t end) { activation_rows(p, begin, end); });
  }
  void convert(const MatrixView& x, const MatrixView& y) override {
    check(x.rows == y.rows && x.cols == y.cols, "convert: shapes differ");
    parallel_rows(threads_, x.rows,
                  [&](std::int64_t begin, std::int64_t end) { convert_rows(x, y, begin, end); });
  }
  void row_norms(const MatrixView& x, std::span<float> norms) override {
    parallel_rows(threads_, x.rows, [&](std::int64_t begin, std::int64_t end) {
      row_norms_range(x, norms.data(), begin, end);
    });
  }
  void keep_rows(const MatrixView& x, std::span<const std::int64_t> rows) override {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] == static_cast<std::int64_t>(i)) continue;
      std::memcpy(x.row<std::byte>(static_cast<std::int64_t>(i)), x.row<std::byte>(rows[i]),
                  static_cast<std::size_t>(x.row_bytes()));
    }
  }

  std::int64_t kv_bytes(std::int64_t kv_heads, std::int64_t head_dim, std::int64_t capacity) const override {
    const KvLayout layout{compute_dtype(), head_dim, round_capacity(capacity)};
    return 2 * kv_heads * layout.head_elements() * dtype_bytes(compute_dtype(), 1);
  }

  std::int64_t q8_bytes(std::int64_t kv_heads, std::int64_t head_dim, std::int64_t capacity) const override {
    const Q8Layout layout{head_dim, round_capacity(capacity)};
    return layout.key_bytes(kv_heads) + layout.value_bytes(kv_heads);
  }
  void unpack(const LayerKv& q8, LayerKv& to) override {
    check(q8.type == KvType::kQ8 && to.type == KvType::kSame && q8.rows <= to.capacity, "unpack: room");
    parallel_rows(threads_, q8.rows, [&](std::int64_t begin, std::int64_t end) {
      unpack_q8_rows(q8, to, compute_dtype(), begin, end);
    });
    to.positions = q8.positions;
    to.rows = q8.rows;
  }

  void reserve(LayerKv& kv, std::int64_t capacity) override {
    if (capacity <= kv.capacity) return;
    std::vector<std::int64_t> all(static_cast<std::size_t>(kv.rows));
    for (std::int64_t row = 0; row < kv.rows; ++row) all[row] = row;
    move_rows(kv, all, capacity);
  }

  void keep_rows(LayerKv& kv, std::span<const std::int64_t> rows) override {
    move_rows(kv, rows, static_cast<std::int64_t>(rows.size()));
    for (std::size_t i = 0; i < rows.size(); ++i) kv.positions[i] = kv.positions[rows[i]];
    kv.positions.resize(rows.size());
    kv.rows = static_cast<std::int64_t>(rows.size());
  }

 private:
  // The cache row at which the rows begin.
  static std::int64_t room_for(const RopeAppendParams& p) {
    check(p.kv->rows + p.qkv.rows <= p.kv->capacity, "rope_append: the cache is full");
    check(static_cast<std::int64_t>(p.positions.size()) == p.qkv.rows, "rope_append: one position a row");
    check(p.q8 == nullptr || (p.q8->type == KvType::kQ8 && p.q8->rows == p.kv->rows &&
                              p.q8->rows + p.qkv.rows <= p.q8->capacity),
          "rope_append: the same rows in 8 bits, and room");
    return p.kv->rows;
  }
  static void appended(const RopeAppendParams& p) {
    for (LayerKv* kv : {p.kv, p.q8}) {
      if (kv == nullptr) continue;
      kv->positions.insert(kv->positions.end(), p.positions.begin(), p.positions.end());
      kv->rows += p.qkv.rows;
    }
  }

  static std::int64_t round_capacity(std::int64_t rows) {
    return (std::max<std::int64_t>(rows, 1) + kCapacityStep - 1) / kCapacityStep * kCapacityStep;
  }

  // A new, zeroed cache of `capacity` rows whose first rows are the given rows of the old one.
  void move_rows(LayerKv& kv, std::span<const std::int64_t> rows, std::int64_t capacity) {
    if (kv.type == KvType::kQ8) return move_q8_rows(kv, rows, capacity);
    const KvLayout from = kv_layout(kv, compute_dtype());
    const KvLayout to{compute_dtype(), kv.head_dim, round_capacity(capacity)};
    const std::int64_t bytes = kv_bytes(kv.kv_heads, kv.head_dim, capacity) / 2;
    Buffer k = Buffer::host(bytes), v = Buffer::host(bytes);
    std::memset(k.as<>(), 0, static_cast<std::size_t>(bytes));
    std::memset(v.as<>(), 0, static_cast<std::size_t>(bytes));
    if (compute_dtype() == DType::kBF16) {
      copy_rows<BF16>(kv, from, to, rows, k, v);
    } else {
      copy_rows<float>(kv, from, to, rows, k, v);
    }
    kv.k = std::move(k);
    kv.v = std::move(v);
    kv.capacity = to.capacity;
  }

  void move_q8_rows(LayerKv& kv, std::span<const std::int64_t> rows, std::int64_t capacity) {
    const Q8Layout to{kv.head_dim, round_capacity(capacity)};
    Buffer k = Buffer::host(to.key_bytes(kv.kv_heads)), v = Buffer::host(to.value_bytes(kv.kv_heads));
    std::memset(k.as<>(), 0, static_cast<std::size_t>(k.bytes()));
    std::memset(v.as<>(), 0, static_cast<std::size_t>(v.bytes()));
    for (std::int64_t head = 0; head < kv.kv_heads && !rows.empty(); ++head) {
      const Q8Head old(kv, head), moved(to, kv.kv_heads, head, k, v);
      parallel_rows(threads_, std::ssize(rows), [&](std::int64_t begin, std::int64_t end) {
        copy_q8_rows(old, moved, rows, begin, end);
      });
    }
    kv.k = std::move(k);
    kv.v = std::move(v);
    kv.capacity = to.capacity;
  }

  template <class T>
  void copy_rows(const LayerKv& kv, const KvLayout& from, const KvLayout& to,
                 std::span<const std::int64_t> rows, const Buffer& k, const Buffer& v) {
    for (std::int64_t head = 0; head < kv.kv_heads; ++head) {
      const T* old_k = kv.k.as<T>() + head * from.head_elements();
      const T* old_v = kv.v.as<T>() + head * from.head_elements();
      T* new_k = k.as<T>() + head * to.head_elements();
      T* new_v = v.as<T>() + head * to.head_elements();
      parallel_rows(threads_, static_cast<std::int64_t>(rows.size()),
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t row = begin; row < end; ++row) {
                        for (std::int64_t d = 0; d < kv.head_dim; ++d) {
                          new_k[to.key_index(row, d)] = old_k[from.key_index(rows[row], d)];
                          new_v[to.value_index(row, d)] = old_v[from.value_index(rows[row], d)];
                        }
                      }
                    });
    }
  }

  Precision precision_;
  int threads_;
  Gemm gemm_;
  std::unique_ptr<Int8Gemm> int8_gemm_;        // of Precision::kInt8
  std::unique_ptr<WidenedGemm> widened_gemm_;  // of Precision::kBF16, where oneDNN has no such products
  DecodeAttention decode_attention_;
  Team team_;
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend(Precision precision, int threads) {
  if (threads < 0) fail(ErrorCode::kBadArgument, "--threads {}: must be 0 (all) or more", threads);
  const int team = cpu::deliverable_threads(threads == 0 ? omp_get_max_threads() : threads);
  omp_set_num_threads(team);  // what works beside the backend, such as analysis, takes no more threads either
  return std::make_unique<cpu::CpuBackend>(precision, team);
}

}  // namespace winnow
