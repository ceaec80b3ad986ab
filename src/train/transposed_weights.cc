#include "train/transposed_weights.h"

#include <algorithm>
#include <cstring>

namespace winnow {
namespace {

constexpr std::int64_t kSlabRows = 512;  // unit vectors multiplied at a time

// Rows [begin, begin + rows) of the unit matrix.
void write_unit_rows(const MatrixView& x, std::int64_t begin) {
  std::memset(x.data, 0, static_cast<std::size_t>(x.rows * x.row_bytes()));
  for (std::int64_t r = 0; r < x.rows; ++r) {
    if (x.dtype == DType::kF32) x.row<float>(r)[begin + r] = 1.0f;
    if (x.dtype == DType::kBF16) x.row<BF16>(r)[begin + r] = to_bf16(1.0f);
  }
}

}  // namespace

std::unique_ptr<Weight> transpose(Backend& backend, const Weight& weight) {
  const std::int64_t in = weight.in_features(), out = weight.out_features();
  const DType dtype = backend.compute_dtype();
  const Buffer units = backend.allocate(std::min(in, kSlabRows) * dtype_bytes(dtype, in));
  const Buffer columns = backend.allocate(std::min(in, kSlabRows) * dtype_bytes(DType::kF32, out));
  return backend.pack(in, out, [&](std::int64_t begin, std::int64_t end, std::span<float> rows) {
    for (std::int64_t first = begin; first < end; first += kSlabRows) {
      const std::int64_t count = std::min(kSlabRows, end - first);
      const MatrixView x{units.as<>(), dtype, count, in}, y{columns.as<>(), DType::kF32, count, out};
      write_unit_rows(x, first);
      backend.linear({.x = x, .weight = &weight, .y = y});
      std::copy_n(columns.as<float>(), count * out, rows.data() + (first - begin) * out);
    }
  });
}

TransposedWeights transpose(Backend& backend, const ModelWeights& weights) {
  TransposedWeights result;
  const auto turned = [&](const LinearWeights& linear) {
    auto weight = transpose(backend, *linear.weight);
    result.bytes += weight->bytes();
    return weight;
  };
  for (const LayerWeights& layer : weights.layers) {
    result.layers.push_back(
        {turned(layer.qkv), turned(layer.attention_out), turned(layer.up), turned(layer.down)});
  }
  result.lm_head = turned(weights.lm_head);
  return result;
}

}  // namespace winnow
