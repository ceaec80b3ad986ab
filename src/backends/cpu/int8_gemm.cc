#include "backends/cpu/int8_gemm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/int8_rows.h"
#include "backends/cpu/onednn_products.h"
#include "backends/cpu/parallel.h"
#include "core/check.h"
#include "core/error.h"

namespace winnow::cpu {
namespace {

using dnnl::memory;

// Below this many rows per thread a product is split by output feature, as in gemm_onednn.cc.
constexpr std::int64_t kMinRowsPerThread = 64;
// Rows that go through a product at a time: their sums stay in the cache until they are scaled. A rest is
// padded to a multiple of kSmallPiece, so that few primitives are made.
constexpr std::int64_t kLargePiece = 64, kSmallPiece = 16;
constexpr std::int64_t kPackSlab = 1024;  // rows of a weight held as floats while packing
constexpr std::int64_t kMostInFeatures = 65536;

std::int64_t padded(std::int64_t rows) {
  return rows == 1 ? 1 : (rows + kSmallPiece - 1) / kSmallPiece * kSmallPiece;
}

class Int8Weight final : public Weight {
 public:
  Int8Weight(std::int64_t out_features, std::int64_t in_features, memory packed, Buffer scales)
      : out_features_(out_features),
        in_features_(in_features),
        packed_(std::move(packed)),
        scales_(std::move(scales)) {}

  std::int64_t out_features() const override { return out_features_; }
  std::int64_t in_features() const override { return in_features_; }
  std::int64_t bytes() const override {
    return static_cast<std::int64_t>(packed_.get_desc().get_size()) + scales_.bytes();
  }
  const memory& packed() const { return packed_; }
  const float* scales() const { return scales_.as<float>(); }  // [out_features]

 private:
  std::int64_t out_features_, in_features_;
  memory packed_;
  Buffer scales_;
};

// Sums of products of 8-bit numbers.
ProductShape shape_of(std::int64_t rows, std::int64_t in_features, std::int64_t out_features, int threads) {
  return {rows, in_features, out_features, memory::data_type::s8, memory::data_type::s32, threads};
}

// What one thread works in.
struct Scratch {
  Buffer q, scales, sums, row;
};

void grow(Buffer& buffer, std::int64_t bytes) {
  if (buffer.bytes() < bytes) buffer = Buffer::host(bytes);
}

}  // namespace

struct Int8Gemm::Impl {
  explicit Impl(int threads_in) : threads(threads_in), products(threads_in), scratch(threads_in) {}

  int threads;
  OnednnProducts products;
  std::vector<Scratch> scratch;  // one a thread

  // At most kLargePiece rows.
  void execute_piece(const LinearParams& params, std::int64_t begin, std::int64_t rows, int team,
                     int thread) {
    const auto& weight = static_cast<const Int8Weight&>(*params.weight);
    const std::int64_t in = weight.in_features(), out = weight.out_features(), all = padded(rows);
    Scratch& own = scratch[thread];
    grow(own.q, kLargePiece * in);
    grow(own.scales, kLargePiece * 4);
    grow(own.sums, kLargePiece * out * 4);
    grow(own.row, in * 4);
    quantize_rows(params.x.slice(begin, rows), own.q.as<std::int8_t>(), own.scales.as<float>(),
                  own.row.as<float>());
    std::fill_n(own.q.as<std::int8_t>() + rows * in, (all - rows) * in, std::int8_t{0});
    products.run(shape_of(all, in, out, team),
                 {.x = own.q.as<>(), .weights = weight.packed(), .y = own.sums.as<>()}, thread);
    scale_sums({.sums = own.sums.as<std::int32_t>(),
                .row_scales = own.scales.as<float>(),
                .feature_scales = weight.scales(),
                .bias = params.bias,
                .y = params.y.slice(begin, rows),
                .accumulate = params.accumulate});
  }

  void execute_rows(const LinearParams& params, std::int64_t begin, std::int64_t end, int team, int thread) {
    for (; begin < end; begin += kLargePiece) {
      execute_piece(params, begin, std::min(kLargePiece, end - begin), team, thread);
    }
  }
};

Int8Gemm::Int8Gemm(int threads) : impl_(std::make_unique<Impl>(threads)) {
  if (!has_avx512_vnni()) {
    fail(ErrorCode::kUnsupported, "--precision int8: this CPU has no AVX512-VNNI; use bf16 or f32");
  }
}

Int8Gemm::~Int8Gemm() = default;

std::unique_ptr<Weight> Int8Gemm::pack(std::int64_t out_features, std::int64_t in_features,
                                       const RowReader& reader) {
  if (in_features > kMostInFeatures) {
    fail(ErrorCode::kUnsupported,
         "--precision int8: a matrix has {} input features, at most {} are supported", in_features,
         kMostInFeatures);
  }
  Buffer plain = Buffer::host(out_features * in_features), scales = Buffer::host(out_features * 4);
  std::vector<float> slab;
  for (std::int64_t begin = 0; begin < out_features; begin += kPackSlab) {
    const std::int64_t count = std::min(kPackSlab, out_features - begin);
    slab.resize(static_cast<std::size_t>(count * in_features));
    reader(begin, begin + count, slab);
    const MatrixView rows{slab.data(), DType::kF32, count, in_features};
    parallel_rows(impl_->threads, count, [&](std::int64_t from, std::int64_t to) {
      std::vector<float> work(static_cast<std::size_t>(in_features));
      quantize_rows(rows.slice(from, to - from), plain.as<std::int8_t>() + (begin + from) * in_features,
                    scales.as<float>() + begin + from, work.data());
    });
  }
  const auto rotation = static_cast<float>(int8_rotation(in_features));
  for (std::int64_t j = 0; j < out_features; ++j) {
    if (std::isnan(scales.as<float>()[j])) {
      fail(ErrorCode::kBadFormat, "--precision int8: row {} of a weight is not finite and has no scale", j);
    }
    scales.as<float>()[j] /= rotation;  // a power of two: exact
  }
  memory source({{in_features, out_features}, memory::data_type::s8, memory::format_tag::ba},
                impl_->products.engine(), plain.as<>());
  memory packed = impl_->products.weights_for(shape_of(kLargePiece, in_features, out_features, 1));
  impl_->products.reorder(source, packed);
  return std::make_unique<Int8Weight>(out_features, in_features, std::move(packed), std::move(scales));
}

void Int8Gemm::linear(const LinearParams& params) {
  const std::int64_t rows = params.x.rows;
  check(params.x.cols == params.weight->in_features(), "linear: x does not fit the weight");
  check(params.y.cols == params.weight->out_features() && params.y.rows == rows, "linear: y does not fit");
  const int threads = impl_->threads;
  if (rows < kMinRowsPerThread * threads) {
    impl_->execute_rows(params, 0, rows, threads, 0);
    return;
  }
  parallel(threads, [&](int thread) {
    const auto [begin, end] = share(rows, thread, threads);
    impl_->execute_rows(params, begin, end, 1, thread);
  });
}

}  // namespace winnow::cpu
