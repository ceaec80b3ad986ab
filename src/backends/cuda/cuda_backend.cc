// The CUDA backend: ops checked here, run by kernels (kernels.h) and cuBLASLt (matmul.h); those around a
// cache are in cuda_attention.h. Caches are [rows, kv_heads, head_dim] of the compute dtype.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "backends/backend.h"
#include "backends/cuda/cuda_attention.h"
#include "backends/cuda/cuda_planner.h"
#include "backends/cuda/cuda_row_choice.h"
#include "backends/cuda/device.h"
#include "backends/cuda/device_buffer.h"
#include "backends/cuda/gated_linear.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/matmul.h"
#include "backends/cuda/rank_exchange.h"
#include "backends/cuda/step_graph.h"
#include "backends/cuda/stored_weight.h"
#include "backends/weight_forms.h"
#include "core/check.h"
#include "core/error.h"

namespace winnow {
namespace cuda {
namespace {

// Kept back when free memory is told: working memory of ops, libraries, and the pool's rounding.
constexpr std::int64_t kReservedBytes = std::int64_t{768} << 20;
// Products are at full speed from some 4K rows on, attention over few blocks with more; activations of this
// many rows of a 7B model are 2 GiB.
constexpr std::int64_t kChunkRows = 16384;

class CudaWeight final : public Weight {
 public:
  CudaWeight(Buffer data, std::int64_t out_features, std::int64_t in_features,
             std::unique_ptr<StoredWeight> stored = nullptr)
      : data_(std::move(data)),
        out_features_(out_features),
        in_features_(in_features),
        stored_(std::move(stored)) {}
  std::int64_t out_features() const override { return out_features_; }
  std::int64_t in_features() const override { return in_features_; }
  std::int64_t bytes() const override { return data_.bytes() + (stored_ ? stored_->bytes() : 0); }
  bool has_decode_form() const override { return stored_ != nullptr; }
  std::int64_t decode_bytes() const override { return stored_ ? stored_->bytes() : data_.bytes(); }
  const void* data() const { return data_.as<>(); }
  const StoredWeight* stored() const { return stored_.get(); }

  // `bias`, which always comes with this weight, in bf16 as cuBLASLt wants it for outputs in bf16.
  const void* rounded(const float* bias, Device& device) const {
    if (bias != rounded_from_) {
      rounded_ = allocate_buffer(device, out_features_ * 2);
      launch_convert(bias, false, rounded_.as<>(), true, out_features_, device.stream());
      rounded_from_ = bias;
    }
    return rounded_.as<>();
  }

 private:
  mutable Buffer rounded_;
  mutable const float* rounded_from_ = nullptr;
  Buffer data_;
  std::int64_t out_features_, in_features_;
  std::unique_ptr<StoredWeight> stored_;  // null: the file's type is not kept
};

std::int64_t heads_of(const MatrixView& q, const LayerKv& kv) {
  const std::int64_t heads = q.cols / kv.head_dim;
  check(heads * kv.head_dim == q.cols && heads % kv.kv_heads == 0, "q has a multiple of kv_heads heads");
  return heads;
}

Activation activation_of(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kSiluGated: return Activation::kSiluGated;
    case ActivationKind::kGeluTanh: return Activation::kGeluTanh;
    case ActivationKind::kGeluErf: return Activation::kGeluErf;
    case ActivationKind::kGeluTanhGated: return Activation::kGeluTanhGated;
  }
  check(false, "activation: a known kind");
  return Activation::kSiluGated;
}

class CudaBackend final : public Backend, public WeightForms {
 public:
  CudaBackend(Precision precision, int index)
      : precision_(precision),
        device_(index),
        matmul_(device_, choices_),
        gated_linear_(device_, matmul_, choices_),
        steps_(device_),
        attention_(compute_dtype(), device_, matmul_, steps_) {}

  std::string description() const override {
    return fmt::format("cuda, {}, {}", device_.name(), bf16() ? "bf16" : "f32");
  }
  Precision precision() const override { return precision_; }

  Buffer allocate(std::int64_t bytes) override { return allocate_buffer(device_, bytes); }
  void upload(const void* host, void* memory, std::int64_t bytes) override {
    steps_.flush();
    device_.copy(memory, host, bytes);
  }
  void download(const void* memory, void* host, std::int64_t bytes) override {
    steps_.flush();
    device_.download(host, memory, bytes);
  }
  bool shares_host_memory() const override { return false; }
  void finish() override { device_.finish(); }
  std::int64_t free_bytes() const override {
    return std::max<std::int64_t>(0, device_.free_memory() - kReservedBytes);
  }
  std::int64_t peak_bytes() const override { return device_.peak_memory(); }
  bool plans_windows() const override { return false; }
  std::int64_t chunk_rows() const override { return kChunkRows; }
  void begin_step() override { steps_.begin(); }
  void end_step() override { steps_.end(); }

  std::unique_ptr<Weight> pack(std::int64_t out_features, std::int64_t in_features,
                               const RowReader& reader) override {
    return pack_stored(out_features, in_features, reader, {});
  }
  std::unique_ptr<Weight> pack_stored(std::int64_t out_features, std::int64_t in_features,
                                      const RowReader& reader, std::span<const StoredRows> stored) override {
    constexpr std::int64_t kSlabFloats = std::int64_t{4} << 20;
    const std::int64_t slab = std::clamp<std::int64_t>(kSlabFloats / in_features, 1, out_features);
    Buffer data = allocate(out_features * dtype_bytes(compute_dtype(), in_features));
    const Buffer floats = allocate(slab * in_features * 4);
    std::vector<float> rows(static_cast<std::size_t>(slab * in_features));
    for (std::int64_t begin = 0; begin < out_features; begin += slab) {
      const std::int64_t count = std::min(slab, out_features - begin);
      reader(begin, begin + count, std::span(rows).first(static_cast<std::size_t>(count * in_features)));
      upload(rows.data(), floats.as<>(), count * in_features * 4);
      launch_convert(floats.as<>(), false,
                     data.as<std::byte>() + begin * dtype_bytes(compute_dtype(), in_features), bf16(),
                     count * in_features, stream());
      device_.finish();  // `rows` is filled again
    }
    return std::make_unique<CudaWeight>(std::move(data), out_features, in_features,
                                        StoredWeight::arrange(in_features, stored, device_));
  }

  std::int64_t packed_bytes(std::int64_t elements) const override {
    return dtype_bytes(compute_dtype(), elements);
  }
  std::optional<std::int64_t> decode_form_bytes(DType dtype, std::int64_t rows,
                                                std::int64_t columns) const override {
    return cpu::stored_bytes(dtype, rows, columns);
  }

  std::unique_ptr<Weight> pack_uniform(std::int64_t in_features,
                                       std::span<const UniformRows> parts) override {
    std::int64_t out_features = 0;
    for (const UniformRows& part : parts) out_features += part.rows;
    const std::int64_t row_bytes = dtype_bytes(compute_dtype(), in_features);
    Buffer data = allocate(out_features * row_bytes);
    auto* to = data.as<std::byte>();
    for (const UniformRows& part : parts) {
      launch_uniform({part.stream, part.scale, to, part.rows, in_features, part.first,
                      part.index(1, in_features) - part.first, bf16()},
                     stream());
      to += part.rows * row_bytes;
    }
    return std::make_unique<CudaWeight>(std::move(data), out_features, in_features);
  }

  bool keeps_embeddings() const override { return true; }
  void gather(const Weight& table, std::span<const std::int32_t> rows, float scale,
              const MatrixView& hidden) override {
    check(
        hidden.dtype == DType::kF32 && hidden.rows == std::ssize(rows) && hidden.cols == table.in_features(),
        "gather: hidden does not fit");
    steps_.flush();
    const std::int32_t* ids = device_.stage_as(rows.data(), std::ssize(rows));
    const auto& weight = static_cast<const CudaWeight&>(table);
    if (weight.stored() != nullptr) {  // what the file says, not rounded
      return weight.stored()->gather(ids, scale, hidden.row<float>(0), hidden.rows, stream());
    }
    launch_embed(weight.data(), bf16(), ids, scale, hidden.row<float>(0), hidden.rows, hidden.cols, stream());
  }

  void norm(const NormParams& p) override {
    check(p.x.dtype == DType::kF32 && p.x.rows == p.y.rows && p.x.cols == p.y.cols,
          "norm: x is float32, as y");
    check(!p.accumulate || p.y.dtype == DType::kF32, "norm: only float32 accumulates");
    const NormArgs args{p.x.row<float>(0),
                        p.weight,
                        p.bias,
                        p.y.data,
                        p.x.rows,
                        p.x.cols,
                        p.epsilon,
                        p.kind == NormKind::kLayer,
                        p.y.dtype == DType::kBF16,
                        p.accumulate};
    steps_.submit(key_of(1, args.x, args.weight, args.bias, args.y, args.rows, args.dim, args.epsilon,
                         args.layer, args.bf16, args.accumulate),
                  [args, s = stream()] { launch_norm(args, s); });
  }

  void linear(const LinearParams& p) override {
    const auto& weight = static_cast<const CudaWeight&>(*p.weight);
    check(p.x.dtype == compute_dtype() && p.x.cols == weight.in_features(),
          "linear: x has in_features columns");
    check(p.y.rows == p.x.rows && p.y.cols == weight.out_features(), "linear: y is [rows, out_features]");
    check(!p.accumulate || p.y.dtype == DType::kF32, "linear: only float32 accumulates");
    check(p.y.dtype == DType::kF32 || p.y.dtype == compute_dtype(), "linear: y is float32 or as x");
    const bool y_bf16 = p.y.dtype == DType::kBF16;
    if (p.x.rows <= kMaxGemvRows && p.x.row_bytes() % 16 == 0) {
      const GemvArgs args{p.x.data, weight.data(), p.bias, p.y.data, p.x.rows,
                          p.x.cols, p.y.cols,      bf16(), y_bf16,   p.accumulate};
      if (const StoredWeight* stored = p.decode ? weight.stored() : nullptr) {
        steps_.submit(key_of(6, args.x, stored, args.bias, args.y, args.rows, args.y_bf16, args.accumulate),
                      [args, stored, s = stream()] { stored->multiply(args, s); });
        return;
      }
      steps_.submit(key_of(2, args.x, args.weight, args.bias, args.y, args.rows, args.in, args.out,
                           args.y_bf16, args.accumulate),
                    [args, s = stream()] { launch_gemv(args, s); });
      return;
    }
    steps_.flush();
    const void* bias = p.bias != nullptr && y_bf16 ? weight.rounded(p.bias, device_) : p.bias;
    matmul_.linear({p.x.data, weight.data(), bias, p.y.data, p.x.rows, p.x.cols, p.y.cols, bf16(), y_bf16,
                    p.accumulate});
  }

  void join(RankShare given) override {
    Backend::join(std::move(given));
    exchange_ = std::make_unique<RankExchange>(device_, steps_, *share().ranks,
                                               kChunkRows * share().most_columns, bf16());
  }
  void linear_over_ranks(const LinearParams& p) override {
    if (!share().sums) return linear(p);
    LinearParams own = p;
    own.y = {exchange_->summand(), exchange_->summand_dtype(p.y.rows), p.y.rows, p.y.cols};
    own.accumulate = false;
    linear(own);
    exchange_->add(p.y, p.accumulate);
  }
  void transfer(const MatrixView& x, int from, int to) override {
    exchange_->transfer(x.data, x.rows * x.row_bytes(), from, to);
  }

  void rope_append(const RopeAppendParams& p) override {
    LayerKv& kv = *p.kv;
    const std::int64_t rows = p.qkv.rows, heads = heads_of(p.q, kv);
    check(p.qkv.dtype == compute_dtype() && p.qkv.cols == (heads + 2 * kv.kv_heads) * kv.head_dim,
          "rope_append: a row is q | k | v");
    check(p.q.rows == rows && std::ssize(p.positions) == rows,
          "rope_append: one position and one q for every row");
    check(kv.rows + rows <= kv.capacity, "rope_append: the cache has room");
    check(p.rope->rotary_dim <= kv.head_dim, "rope_append: rotary_dim fits the head");
    for (const std::int32_t position : p.positions) {
      check(p.rope->rotary_dim == 0 || (position >= 0 && position < p.rope->positions),
            "rope: the table has the position");
    }
    numbers_.assign(1, static_cast<std::int32_t>(kv.rows));
    numbers_.insert(numbers_.end(), p.positions.begin(), p.positions.end());
    const std::int32_t* numbers = steps_.numbers(numbers_);
    const RopeAppendArgs args{p.qkv.data,
                              numbers + 1,
                              numbers,
                              p.rope->cos.as<float>(),
                              p.rope->sin.as<float>(),
                              p.q_norm,
                              p.k_norm,
                              p.q.data,
                              kv.k.as<>(),
                              kv.v.as<>(),
                              rows,
                              heads,
                              kv.kv_heads,
                              kv.head_dim,
                              p.rope->rotary_dim,
                              p.norm_epsilon,
                              bf16()};
    steps_.submit(
        key_of(3, args.qkv, args.positions, args.cos, args.sin, args.q_norm, args.k_norm, args.q, args.k,
               args.v, args.rows, args.heads, args.kv_heads, args.head_dim, args.rotary_dim),
        [args, s = stream()] { launch_rope_append(args, s); });
    kv.positions.insert(kv.positions.end(), p.positions.begin(), p.positions.end());
    kv.rows += rows;
  }

  void attention(const AttentionParams& p) override { attention_.attention(p); }
  void attention_probs(const AttentionProbsParams& p) override { attention_.attention_probs(p); }
  void own_window_scores(const WindowScoresParams& p) override { attention_.window_scores(p); }
  std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams& p) override {
    steps_.flush();
    return make_cuda_planner(p, compute_dtype(), device_);
  }

  void activation(const ActivationParams& p) override {
    const std::int64_t dim = p.y.cols;
    check(p.x.dtype == compute_dtype() && p.y.dtype == compute_dtype() && p.x.rows == p.y.rows &&
              p.x.cols == (is_gated(p.kind) ? 2 * dim : dim),
          "activation: x is [rows, dim], or [rows, 2 dim] when gated");
    const Activation kind = activation_of(p.kind);
    steps_.submit(key_of(4, kind, p.x.data, p.y.data, p.y.rows, dim), [kind, p, this] {
      launch_activation(kind, p.x.data, p.y.data, p.y.rows, p.y.cols, bf16(), stream());
    });
  }
  void linear_activation(const LinearParams& up, const ActivationParams& activated) override {
    const GatedLinearArgs args{.x = up.x.data,
                               .weight = static_cast<const CudaWeight&>(*up.weight).data(),
                               .y = activated.y.data,
                               .rows = up.x.rows,
                               .in = up.x.cols,
                               .dim = activated.y.cols,
                               .kind = activation_of(activated.kind)};
    const bool gates = bf16() && is_gated(activated.kind) && up.bias == nullptr && args.rows > kMaxGemvRows;
    if (!gates) return Backend::linear_activation(up, activated);
    check(up.weight->in_features() == args.in && up.weight->out_features() == 2 * args.dim &&
              up.y.rows == args.rows && up.y.cols == 2 * args.dim && activated.y.rows == args.rows,
          "linear_activation: x has in_features columns, y half of out_features");
    steps_.flush();
    gated_linear_.run(args, up.y.data);
  }

  void convert(const MatrixView& x, const MatrixView& y) override {
    check(x.rows == y.rows && x.cols == y.cols, "convert: shapes differ");
    steps_.flush();
    launch_convert(x.data, x.dtype == DType::kBF16, y.data, y.dtype == DType::kBF16, x.rows * x.cols,
                   stream());
  }

  void row_norms(const MatrixView& x, std::span<float> norms) override {
    check(std::ssize(norms) == x.rows, "row_norms: one norm for every row");
    steps_.flush();
    auto* on_device = static_cast<float*>(device_.scratch(x.rows * 4));
    launch_row_norms(x.data, x.dtype == DType::kBF16, on_device, x.rows, x.cols, stream());
    download(on_device, norms.data(), x.rows * 4);
  }

  void keep_rows(const MatrixView& x, std::span<const std::int64_t> rows) override {
    steps_.flush();
    const std::vector<std::int32_t> from(rows.begin(), rows.end());
    launch_move_up(x.data, device_.stage_as(from.data(), std::ssize(from)), 0, std::ssize(from),
                   x.row_bytes(), stream());
  }
  std::unique_ptr<RowChoice> choose_rows(const RowChoiceParams& p) override {
    return attention_.choose_rows(p);
  }
  void keep_rows(const MatrixView& x, const RowChoice& choice) override {
    steps_.flush();
    const auto& chosen = static_cast<const CudaRowChoice&>(choice);
    launch_move_up(x.data, chosen.rows(), chosen.first_row(), chosen.count(), x.row_bytes(), stream());
  }

  void reserve(LayerKv& kv, std::int64_t capacity) override {
    if (capacity <= kv.capacity) return;
    steps_.flush();
    const std::int64_t row_bytes = dtype_bytes(compute_dtype(), kv.kv_heads * kv.head_dim);
    for (Buffer* buffer : {&kv.k, &kv.v}) {
      Buffer larger = allocate(capacity * row_bytes);
      if (kv.rows > 0) device_.copy(larger.as<>(), buffer->as<>(), kv.rows * row_bytes);
      *buffer = std::move(larger);
    }
    kv.capacity = capacity;
  }
  std::int64_t kv_bytes(std::int64_t kv_heads, std::int64_t head_dim, std::int64_t capacity) const override {
    return 2 * capacity * dtype_bytes(compute_dtype(), kv_heads * head_dim);
  }
  void keep_rows(LayerKv& kv, std::span<const std::int64_t> rows) override {
    steps_.flush();
    const std::int64_t row_bytes = dtype_bytes(compute_dtype(), kv.kv_heads * kv.head_dim),
                       count = std::ssize(rows);
    const std::int64_t* from = device_.stage_as(rows.data(), count);
    for (Buffer* buffer : {&kv.k, &kv.v}) {
      Buffer kept = allocate(count * row_bytes);
      launch_gather_rows(buffer->as<>(), from, kept.as<>(), count, row_bytes, stream());
      *buffer = std::move(kept);
    }
    for (std::int64_t i = 0; i < count; ++i) kv.positions[i] = kv.positions[rows[i]];
    kv.positions.resize(rows.size());
    kv.rows = kv.capacity = count;
  }

 private:
  bool bf16() const { return compute_dtype() == DType::kBF16; }
  cudaStream_t stream() const { return device_.stream(); }

  Precision precision_;
  Device device_;
  const StoredChoices choices_ = read_choices();
  Matmul matmul_;
  GatedLinear gated_linear_;
  StepGraphs steps_;
  CudaAttention attention_;
  std::unique_ptr<RankExchange> exchange_;  // null: alone
  std::vector<std::int32_t> numbers_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(Precision precision, int device) {
  if (precision != Precision::kF32 && precision != Precision::kBF16) {
    fail(ErrorCode::kUnsupported, "--device cuda: computes in f32 or bf16");
  }
  return std::make_unique<cuda::CudaBackend>(precision, device);
}

}  // namespace winnow
