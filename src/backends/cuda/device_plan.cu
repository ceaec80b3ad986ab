#include <algorithm>
#include <vector>

#include "backends/cuda/device_plan.h"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 256;

// A thread makes the bits of a row.
__global__ void listed_plan_kernel(const std::int64_t* offsets, const std::int32_t* blocks, std::int64_t rows,
                                   std::int64_t words, std::uint32_t* bits) {
  const std::int64_t row = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (row >= rows) return;
  std::uint32_t* to = bits + row * words;
  for (std::int64_t word = 0; word < words; ++word) to[word] = 0;
  for (std::int64_t i = offsets[row]; i < offsets[row + 1]; ++i) to[blocks[i] / 32] |= 1u << (blocks[i] % 32);
}

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

std::int64_t plan_bits_bytes(std::int64_t heads, std::int64_t query_blocks, std::int64_t words) {
  return heads * query_blocks * words * 4;
}

DevicePlan listed_device_plan(const BlockPlan& host, std::int64_t kv_rows, std::uint32_t* bits,
                              Device& device) {
  DevicePlan plan;
  plan.q_block = host.q_block;
  plan.k_block = host.k_block;
  plan.heads = host.heads;
  plan.query_blocks = host.query_blocks;
  plan.words = plan_words(kv_rows, host.k_block);
  plan.listed = bits;
  // One piece of the ring: a second one could push the first out.
  const std::int64_t offsets = static_cast<std::int64_t>(host.offsets.size()),
                     blocks = static_cast<std::int64_t>(host.blocks.size());
  std::vector<std::int64_t> lists(host.offsets);
  lists.resize(static_cast<std::size_t>(offsets + (blocks + 1) / 2));
  std::copy(host.blocks.begin(), host.blocks.end(), reinterpret_cast<std::int32_t*>(lists.data() + offsets));
  const std::int64_t* staged = device.stage_as(lists.data(), static_cast<std::int64_t>(lists.size()));
  const std::int64_t rows = host.heads * host.query_blocks;
  listed_plan_kernel<<<blocks_for(rows), kThreads, 0, device.stream()>>>(
      staged, reinterpret_cast<const std::int32_t*>(staged + offsets), rows, plan.words, bits);
  check_launch("a plan");
  return plan;
}

}  // namespace winnow::cuda
