#include "backends/cpu/gemm_onednn.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "backends/cpu/bf16_panels.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/onednn_products.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/stored_weight.h"
#include "core/check.h"

namespace winnow::cpu {
namespace {

using dnnl::memory;

// Below this many rows per thread a product is split by output feature instead of by row: reading the weights
// decides its time then, and every thread should read its own part of them.
constexpr std::int64_t kMinRowsPerThread = 64;
// oneDNN makes a primitive for every number of rows, and pruned prompts have any number at every stage. So
// products are made of pieces: a multiple of kLargePiece rows, and a rest that is padded to a multiple of
// kSmallPiece in a copy.
constexpr std::int64_t kLargePiece = 64, kSmallPiece = 16;
// Weights are packed in the layout oneDNN prefers for this many rows; every other row count then uses that
// layout.
constexpr std::int64_t kPackRows = 256;
// Rows of a weight converted at a time while packing, to bound the copies; whole blocks of packed forms.
constexpr std::int64_t kPackSlab = 3072;

memory::data_type onednn_type(DType dtype) {
  check(dtype == DType::kF32 || dtype == DType::kBF16, "GEMM operands are F32 or BF16");
  return dtype == DType::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
}

class PackedWeight final : public Weight {
 public:
  PackedWeight(std::int64_t out_features, std::int64_t in_features, memory packed,
               std::unique_ptr<StoredWeight> stored)
      : out_features_(out_features),
        in_features_(in_features),
        packed_(std::move(packed)),
        stored_(std::move(stored)),
        has_panels_(packed_.get_desc() == panels(out_features, in_features)) {}

  std::int64_t out_features() const override { return out_features_; }
  std::int64_t in_features() const override { return in_features_; }
  std::int64_t bytes() const override { return packed_bytes() + (stored_ ? stored_->bytes() : 0); }
  bool has_decode_form() const override { return stored_ != nullptr || decodes_from_panels(); }
  std::int64_t decode_bytes() const override { return stored_ ? stored_->bytes() : packed_bytes(); }

  const memory& packed() const { return packed_; }
  const StoredWeight* stored() const { return stored_.get(); }
  bool decodes_from_panels() const { return has_panels_ && has_panel_kernel(); }
  const BF16* panel(std::int64_t index) const {
    const std::int64_t blocks = (in_features_ + kPanelColumns - 1) / kPanelColumns;
    return static_cast<const BF16*>(packed_.get_data_handle()) +
           index * blocks * kPanelColumns * kPanelFeatures;
  }

 private:
  // The form that bf16_panels.h reads.
  static memory::desc panels(std::int64_t out_features, std::int64_t in_features) {
    return {{in_features, out_features}, memory::data_type::bf16, memory::format_tag::BA16a64b2a};
  }
  std::int64_t packed_bytes() const { return static_cast<std::int64_t>(packed_.get_desc().get_size()); }

  std::int64_t out_features_, in_features_;
  memory packed_;
  std::unique_ptr<StoredWeight> stored_;  // or null
  bool has_panels_;
};

}  // namespace

struct Gemm::Impl {
  Impl(DType dtype_in, int threads_in)
      : dtype(dtype_in), threads(threads_in), products(threads_in), padded(threads_in) {}

  DType dtype;
  int threads;
  OnednnProducts products;
  std::vector<Buffer> padded;  // one a thread: x and y of a padded rest
  const StoredKernels& stored_kernels = choose_stored_kernels();
  Buffer decode_rows;  // activations of a product on decode forms

  // Rows [begin, begin + rows.rows) of a weight.
  void convert(const RowReader& reader, std::int64_t begin, const MatrixView& rows) const {
    std::vector<float> floats(static_cast<std::size_t>(rows.rows * rows.cols));
    reader(begin, begin + rows.rows, floats);
    const MatrixView source{floats.data(), DType::kF32, rows.rows, rows.cols};
    parallel_rows(threads, rows.rows,
                  [&](std::int64_t from, std::int64_t to) { convert_rows(source, rows, from, to); });
  }

  // A piece at a time where the form can be written so: a whole matrix in two forms would be the peak of the
  // memory that loading takes.
  void pack_rows(std::int64_t out_features, std::int64_t in_features, const RowReader& reader,
                 const memory& packed) {
    const memory::desc form = packed.get_desc();
    const auto region = [&](std::int64_t begin, std::int64_t rows) {
      return form.submemory_desc({in_features, rows}, {0, begin}, /*allow_empty=*/true);
    };
    const bool in_pieces = out_features > kPackSlab && region(0, kPackSlab) &&
                           region(kPackSlab, std::min(kPackSlab, out_features - kPackSlab));
    const std::int64_t piece = in_pieces ? kPackSlab : out_features;
    const Buffer plain = Buffer::host(piece * dtype_bytes(dtype, in_features));
    for (std::int64_t begin = 0; begin < out_features; begin += piece) {
      const std::int64_t count = std::min(piece, out_features - begin);
      const MatrixView rows{plain.as<>(), dtype, count, in_features};
      for (std::int64_t first = 0; first < count; first += kPackSlab) {
        convert(reader, begin + first, rows.slice(first, std::min(kPackSlab, count - first)));
      }
      memory source({{in_features, count}, onednn_type(dtype), memory::format_tag::ba}, products.engine(),
                    plain.as<>());
      memory target(in_pieces ? region(begin, count) : form, products.engine(), packed.get_data_handle());
      products.reorder(source, target);
    }
  }

  // y = x W^T + bias (y += if `accumulate`) on `team` threads of oneDNN's, by the given thread of ours.
  void execute(const LinearParams& params, const MatrixView& x, const MatrixView& y, bool accumulate,
               int team, int thread) {
    const auto& weight = static_cast<const PackedWeight&>(*params.weight);
    products.run({.rows = x.rows,
                  .in_features = weight.in_features(),
                  .out_features = weight.out_features(),
                  .x = onednn_type(dtype),
                  .y = onednn_type(y.dtype),
                  .threads = team,
                  .accumulate = accumulate,
                  .bias = params.bias != nullptr},
                 {.x = x.data, .weights = weight.packed(), .y = y.data, .bias = params.bias}, thread);
  }

  // Rows [begin, begin + rows), of a number that is no multiple of kSmallPiece, by way of a padded copy.
  void execute_padded(const LinearParams& params, std::int64_t begin, std::int64_t rows, int team,
                      int thread) {
    const std::int64_t padded_rows = (rows + kSmallPiece - 1) / kSmallPiece * kSmallPiece;
    const MatrixView x = params.x.slice(begin, rows), y = params.y.slice(begin, rows);
    const std::int64_t x_bytes = padded_rows * x.row_bytes(), y_bytes = padded_rows * y.row_bytes();
    Buffer& buffer = padded[thread];
    if (buffer.bytes() < x_bytes + y_bytes) buffer = Buffer::host(x_bytes + y_bytes);
    std::byte* x_copy = buffer.as<>();
    std::byte* y_copy = x_copy + x_bytes;
    std::memcpy(x_copy, x.data, static_cast<std::size_t>(rows * x.row_bytes()));
    std::memset(x_copy + rows * x.row_bytes(), 0, static_cast<std::size_t>(x_bytes - rows * x.row_bytes()));
    if (params.accumulate) std::memcpy(y_copy, y.data, static_cast<std::size_t>(rows * y.row_bytes()));
    execute(params, {x_copy, x.dtype, padded_rows, x.cols}, {y_copy, y.dtype, padded_rows, y.cols},
            params.accumulate, team, thread);
    std::memcpy(y.data, y_copy, static_cast<std::size_t>(rows * y.row_bytes()));
  }

  void execute_rows(const LinearParams& params, std::int64_t begin, std::int64_t rows, int team, int thread) {
    const auto direct = [&](std::int64_t first, std::int64_t count) {
      execute(params, params.x.slice(first, count), params.y.slice(first, count), params.accumulate, team,
              thread);
    };
    const std::int64_t whole = rows / kLargePiece * kLargePiece, rest = rows - whole;
    if (whole > 0) direct(begin, whole);
    if (rest == 0) return;
    if (rows == 1 || rest % kSmallPiece == 0) {
      direct(begin + whole, rest);
    } else {
      execute_padded(params, begin + whole, rest, team, thread);
    }
  }
};

// A product with few rows, split by panels of output features.
void multiply_panels(const LinearParams& params, const PackedWeight& weight, const StoredKernels& kernels,
                     int threads, Buffer& scratch) {
  const std::int64_t blocks = (weight.in_features() + kPanelColumns - 1) / kPanelColumns;
  const std::int64_t stride = blocks * kPanelColumns, most = std::min(params.x.rows, kRowsPerPass);
  if (scratch.bytes() < most * stride * 2) scratch = Buffer::host(most * stride * 2);
  for (std::int64_t begin = 0; begin < params.x.rows; begin += kRowsPerPass) {
    const std::int64_t rows = std::min(kRowsPerPass, params.x.rows - begin);
    for (std::int64_t i = 0; i < rows; ++i) {
      BF16* x = scratch.as<BF16>() + i * stride;
      std::memcpy(x, params.x.row<BF16>(begin + i), static_cast<std::size_t>(params.x.row_bytes()));
      std::fill(x + params.x.cols, x + stride, BF16{0});
    }
    const std::int64_t panels = (weight.out_features() + kPanelFeatures - 1) / kPanelFeatures;
    parallel_pieces(threads, panels, [&](std::int64_t first, std::int64_t last) {
      alignas(64) float sums[kRowsPerPass][kPanelFeatures];
      for (std::int64_t p = first; p < last; ++p) {
        multiply_panel(weight.panel(p), blocks, scratch.as<BF16>(), rows, sums);
        const std::int64_t feature = p * kPanelFeatures;
        write_products(params, kernels, begin, rows, feature,
                       std::min(kPanelFeatures, weight.out_features() - feature), sums[0], kPanelFeatures);
      }
    });
  }
}

bool has_bf16_products() {
  static const bool has = [] {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    const memory::desc side({16, 16}, memory::data_type::bf16, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc product(dnnl::matmul::desc(side, side, side), dnnl::primitive_attr(),
                                               engine, /*allow_empty=*/true);
    return static_cast<bool>(product);
  }();
  return has;
}

Gemm::Gemm(Precision precision, int threads)
    : impl_(std::make_unique<Impl>(compute_dtype(precision), threads)) {}

Gemm::~Gemm() = default;

std::unique_ptr<Weight> Gemm::pack(std::int64_t out_features, std::int64_t in_features,
                                   const RowReader& reader, std::span<const StoredRows> stored) {
  const DType dtype = impl_->dtype;
  const memory::data_type type = onednn_type(dtype);
  const memory packed = impl_->products.weights_for(
      {.rows = kPackRows, .in_features = in_features, .out_features = out_features, .x = type, .y = type});
  impl_->pack_rows(out_features, in_features, reader, packed);
  std::unique_ptr<StoredWeight> as_stored;
  if (dtype == DType::kBF16 && !stored.empty()) {
    as_stored = StoredWeight::arrange(in_features, stored, impl_->threads);
  }
  return std::make_unique<PackedWeight>(out_features, in_features, packed, std::move(as_stored));
}

void Gemm::linear(const LinearParams& params) {
  const auto& weight = static_cast<const PackedWeight&>(*params.weight);
  check(params.x.dtype == impl_->dtype && params.x.cols == weight.in_features(),
        "linear: x does not fit the weight");
  check(params.y.cols == weight.out_features() && params.y.rows == params.x.rows, "linear: y does not fit");
  check(!params.accumulate || params.y.dtype == DType::kF32, "linear: only float32 is accumulated into");
  const std::int64_t rows = params.x.rows;
  if (rows == 0) return;
  const int threads = impl_->threads;
  if (params.decode && weight.stored() != nullptr) {
    return weight.stored()->multiply(params, impl_->stored_kernels, threads, impl_->decode_rows);
  }
  if (params.decode && weight.decodes_from_panels()) {
    return multiply_panels(params, weight, impl_->stored_kernels, threads, impl_->decode_rows);
  }
  check(Team::current() == nullptr, "linear: inside together() only products with decode forms");
  if (rows < kMinRowsPerThread * threads) {
    impl_->execute_rows(params, 0, rows, threads, 0);
    return;
  }
  parallel(threads, [&](int thread) {
    const auto [begin, end] = share(rows, thread, threads);
    impl_->execute_rows(params, begin, end - begin, 1, thread);
  });
}

}  // namespace winnow::cpu
