#include "backends/cuda/stored_weight.h"

#include <algorithm>

#include "backends/cuda/device_buffer.h"
#include "backends/cuda/stored_gemv.h"

namespace winnow::cuda {
namespace {

using cpu::kGroupRows;

std::int64_t group_bytes(cpu::BlockKind kind, std::int64_t columns) {
  const cpu::BlockShape shape = cpu::block_shape(kind);
  return columns / shape.columns * shape.bytes;
}

std::int64_t group_count(std::int64_t rows) { return (rows + kGroupRows - 1) / kGroupRows; }

}  // namespace

std::unique_ptr<StoredWeight> StoredWeight::arrange(std::int64_t in_features,
                                                    std::span<const StoredRows> parts, Device& device) {
  auto weight = std::make_unique<StoredWeight>();
  weight->in_features_ = in_features;
  std::int64_t bytes = 0, first_row = 0;
  for (const StoredRows& part : parts) {
    const auto part_bytes = cpu::stored_bytes(part.dtype, part.rows, in_features);
    if (!part_bytes) return nullptr;
    weight->parts_.push_back({*cpu::block_kind(part.dtype), first_row, part.rows, bytes});
    bytes += *part_bytes;
    first_row += part.rows;
  }
  if (parts.empty()) return nullptr;
  weight->data_ = allocate_buffer(device, bytes);
  constexpr std::int64_t kSlabBytes = std::int64_t{16} << 20;
  std::vector<std::byte> stored, groups;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const StoredRows& part = parts[i];
    const std::int64_t one_group = group_bytes(weight->parts_[i].kind, in_features),
                       row_bytes = dtype_bytes(part.dtype, in_features);
    const std::int64_t slab = std::max<std::int64_t>(1, kSlabBytes / one_group) * kGroupRows;
    auto* to = weight->data_.as<std::byte>() + weight->parts_[i].at;
    for (std::int64_t begin = 0; begin < part.rows; begin += slab) {
      const std::int64_t end = std::min(part.rows, begin + slab);
      stored.resize(static_cast<std::size_t>((end - begin) * row_bytes));
      groups.resize(static_cast<std::size_t>(group_count(end - begin) * one_group));
      part.read(begin, end, stored);
      for (std::int64_t row = begin; row < end; row += kGroupRows) {
        const std::int64_t rows = std::min(kGroupRows, end - row);
        cpu::arrange_group(part.dtype, rows, in_features,
                           std::span(stored).subspan(static_cast<std::size_t>((row - begin) * row_bytes),
                                                     static_cast<std::size_t>(rows * row_bytes)),
                           groups.data() + (row - begin) / kGroupRows * one_group);
      }
      device.copy(to, groups.data(), std::ssize(groups));
      device.finish();  // `groups` is filled again
      to += std::ssize(groups);
    }
  }
  return weight;
}

void StoredWeight::multiply(const GemvArgs& args, cudaStream_t stream) const {
  for (const Part& part : parts_) {
    launch_stored_gemv({part.kind, data_.as<std::uint8_t>() + part.at, part.first_row, part.rows}, args,
                       stream);
  }
}

void StoredWeight::gather(const std::int32_t* rows, float scale, float* hidden, std::int64_t count,
                          cudaStream_t stream) const {
  for (const Part& part : parts_) {
    launch_stored_embed({part.kind, data_.as<std::uint8_t>() + part.at, part.first_row, part.rows},
                        in_features_, rows, scale, hidden, count, stream);
  }
}

}  // namespace winnow::cuda
