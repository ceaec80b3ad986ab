#include "backends/cpu/stored_weight.h"

#include <algorithm>

#include "backends/cpu/parallel.h"
#include "core/check.h"

namespace winnow::cpu {

std::unique_ptr<StoredWeight> StoredWeight::arrange(std::int64_t in_features,
                                                    std::span<const StoredRows> parts, int threads) {
  std::int64_t bytes = 0;
  for (const StoredRows& part : parts) {
    const auto part_bytes = stored_bytes(part.dtype, part.rows, in_features);
    if (!part_bytes) return nullptr;
    bytes += *part_bytes;
  }
  auto weight = std::make_unique<StoredWeight>();
  weight->in_features_ = in_features;
  weight->data_ = Buffer::host(bytes);
  std::byte* data = weight->data_.as<>();
  std::int64_t first_row = 0;
  for (const StoredRows& part : parts) {
    const BlockKind kind = *block_kind(part.dtype);
    const BlockShape shape = block_shape(kind);
    const std::int64_t group_bytes = in_features / shape.columns * shape.bytes;
    const std::int64_t groups = (part.rows + kGroupRows - 1) / kGroupRows;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t row = g * kGroupRows;
      weight->groups_.push_back(
          {kind, data + g * group_bytes, first_row + row, std::min(kGroupRows, part.rows - row)});
    }
    parallel(threads, [&](int thread) {
      const auto [begin, end] = share(groups, thread, threads);
      std::vector<std::byte> stored(
          static_cast<std::size_t>(kGroupRows * dtype_bytes(part.dtype, in_features)));
      for (std::int64_t g = begin; g < end; ++g) {
        const std::int64_t row = g * kGroupRows, rows = std::min(kGroupRows, part.rows - row);
        const auto used =
            std::span(stored).first(static_cast<std::size_t>(rows * dtype_bytes(part.dtype, in_features)));
        part.read(row, row + rows, used);
        arrange_group(part.dtype, rows, in_features, used, data + g * group_bytes);
      }
    });
    data += groups * group_bytes;
    first_row += part.rows;
  }
  return weight;
}

void StoredWeight::multiply(const LinearParams& params, const StoredKernels& kernels, int threads,
                            Buffer& scratch) const {
  const std::int64_t row_bytes = QuantizedRow::bytes(in_features_),
                     rows = std::min(params.x.rows, kRowsPerPass);
  if (scratch.bytes() < rows * row_bytes) scratch = Buffer::host(rows * row_bytes);
  QuantizedRow quantized[kRowsPerPass];
  for (std::int64_t i = 0; i < rows; ++i)
    quantized[i] = QuantizedRow::in(scratch.as<>() + i * row_bytes, in_features_);
  for (std::int64_t begin = 0; begin < params.x.rows; begin += kRowsPerPass) {
    const std::int64_t count = std::min(kRowsPerPass, params.x.rows - begin);
    parallel_rows(threads, count, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t i = from; i < to; ++i) {
        if (params.x.dtype == DType::kBF16) {
          kernels.quantize_bf16(params.x.row<BF16>(begin + i), in_features_, quantized[i]);
        } else {
          kernels.quantize_f32(params.x.row<float>(begin + i), in_features_, quantized[i]);
        }
      }
    });
    const std::span<const QuantizedRow> x(quantized, static_cast<std::size_t>(count));
    const auto groups = static_cast<std::int64_t>(groups_.size());
    parallel_pieces(threads, groups, [&](std::int64_t first, std::int64_t last) {
      alignas(64) float sums[kRowsPerPass][kGroupRows];
      for (std::int64_t g = first; g < last; ++g) {
        const Group& group = groups_[g];
        kernels.multiply(group.kind, group.data, in_features_ / block_shape(group.kind).columns, x, sums);
        write_products(params, kernels, begin, count, group.first_row, group.rows, sums[0], kGroupRows);
      }
    });
  }
}

namespace {

// The last features, where there are fewer than a group.
void write_rest(const LinearParams& params, std::int64_t row, std::int64_t first, std::int64_t count,
                const float* sums, const float* bias) {
  for (std::int64_t c = 0; c < count; ++c) {
    const float value = bias == nullptr ? sums[c] : sums[c] + bias[c];
    if (params.accumulate) {
      params.y.row<float>(row)[first + c] += value;
    } else if (params.y.dtype == DType::kF32) {
      params.y.row<float>(row)[first + c] = value;
    } else {
      params.y.row<BF16>(row)[first + c] = to_bf16(value);
    }
  }
}

}  // namespace

void write_products(const LinearParams& params, const StoredKernels& kernels, std::int64_t begin,
                    std::int64_t rows, std::int64_t first, std::int64_t count, const float* sums,
                    std::int64_t stride) {
  const std::int64_t whole = count / kGroupRows * kGroupRows;
  const auto bias = [&](std::int64_t feature) {
    return params.bias == nullptr ? nullptr : params.bias + feature;
  };
  for (std::int64_t i = 0; i < rows; ++i, sums += stride) {
    for (std::int64_t c = 0; c < whole; c += kGroupRows) {
      if (params.y.dtype == DType::kF32) {
        kernels.write_f32(sums + c, bias(first + c), params.accumulate,
                          params.y.row<float>(begin + i) + first + c);
      } else {
        kernels.write_bf16(sums + c, bias(first + c), params.y.row<BF16>(begin + i) + first + c);
      }
    }
    write_rest(params, begin + i, first + whole, count - whole, sums + whole, bias(first + whole));
  }
}

}  // namespace winnow::cpu
