#include "backends/cpu/widened_gemm.h"

#include <algorithm>

#include "backends/cpu/kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/stored_weight.h"
#include "core/check.h"

namespace winnow::cpu {
namespace {

// Rows widened at a time, to bound the copies.
constexpr std::int64_t kPiece = 1024;

class WidenedWeight final : public Weight {
 public:
  WidenedWeight(std::unique_ptr<Weight> wide, std::unique_ptr<StoredWeight> stored)
      : wide_(std::move(wide)), stored_(std::move(stored)) {}

  std::int64_t out_features() const override { return wide_->out_features(); }
  std::int64_t in_features() const override { return wide_->in_features(); }
  std::int64_t bytes() const override { return wide_->bytes() + (stored_ ? stored_->bytes() : 0); }
  bool has_decode_form() const override { return stored_ != nullptr; }
  std::int64_t decode_bytes() const override { return stored_ ? stored_->bytes() : wide_->bytes(); }

  const Weight& wide() const { return *wide_; }
  const StoredWeight* stored() const { return stored_.get(); }

 private:
  std::unique_ptr<Weight> wide_;          // float32
  std::unique_ptr<StoredWeight> stored_;  // or null
};

void convert(const MatrixView& from, const MatrixView& to, int threads) {
  parallel_rows(threads, from.rows,
                [&](std::int64_t begin, std::int64_t end) { convert_rows(from, to, begin, end); });
}

// `buffer`, grown, as a float32 matrix.
MatrixView floats(Buffer& buffer, std::int64_t rows, std::int64_t cols) {
  if (buffer.bytes() < rows * cols * 4) buffer = Buffer::host(rows * cols * 4);
  return {buffer.as<>(), DType::kF32, rows, cols};
}

}  // namespace

std::unique_ptr<Weight> WidenedGemm::pack(std::int64_t out_features, std::int64_t in_features,
                                          const RowReader& reader, std::span<const StoredRows> stored) {
  const auto rounded = [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
    reader(begin, end, out);
    for (float& value : out) value = to_float(to_bf16(value));
  };
  return std::make_unique<WidenedWeight>(
      gemm_.pack(out_features, in_features, rounded, {}),
      stored.empty() ? nullptr : StoredWeight::arrange(in_features, stored, threads_));
}

void WidenedGemm::linear(const LinearParams& params) {
  const auto& weight = static_cast<const WidenedWeight&>(*params.weight);
  check(params.x.dtype == DType::kBF16 && params.y.rows == params.x.rows, "linear: x does not fit");
  if (params.decode && weight.stored() != nullptr) {
    return weight.stored()->multiply(params, stored_kernels_, threads_, decode_rows_);
  }
  for (std::int64_t begin = 0; begin < params.x.rows; begin += kPiece) {
    const std::int64_t rows = std::min(kPiece, params.x.rows - begin);
    const MatrixView x = floats(x_, rows, params.x.cols), y = params.y.slice(begin, rows);
    const MatrixView wide_y = y.dtype == DType::kF32 ? y : floats(y_, rows, y.cols);
    convert(params.x.slice(begin, rows), x, threads_);
    gemm_.linear({.x = x,
                  .weight = &weight.wide(),
                  .bias = params.bias,
                  .y = wide_y,
                  .accumulate = params.accumulate});
    if (y.dtype != DType::kF32) convert(wide_y, y, threads_);
  }
}

}  // namespace winnow::cpu
