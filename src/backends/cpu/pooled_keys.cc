#include "backends/cpu/pooled_keys.h"

#include <algorithm>
#include <cmath>

#include "backends/cpu/parallel.h"

namespace winnow::cpu {
namespace {

std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

// One row of keys as floats, and back. Its elements, for bf16 pairs of them, lie a key block apart.
void load_key(const KvLayout& layout, const std::byte* keys, std::int64_t row, float* key) {
  if (layout.dtype == DType::kF32) {
    const float* from = reinterpret_cast<const float*>(keys) + layout.key_index(row, 0);
    for (std::int64_t d = 0; d < layout.head_dim; ++d) key[d] = from[d * kKeyBlock];
    return;
  }
  const BF16* from = reinterpret_cast<const BF16*>(keys) + layout.key_index(row, 0);
  for (std::int64_t d = 0; d < layout.padded_dim(); d += 2, from += 2 * kKeyBlock) {
    key[d] = to_float(from[0]);
    key[d + 1] = to_float(from[1]);
  }
}
void store_key(const KvLayout& layout, const float* key, std::int64_t row, std::byte* keys) {
  if (layout.dtype == DType::kF32) {
    float* to = reinterpret_cast<float*>(keys) + layout.key_index(row, 0);
    for (std::int64_t d = 0; d < layout.head_dim; ++d) to[d * kKeyBlock] = key[d];
    return;
  }
  BF16* to = reinterpret_cast<BF16*>(keys) + layout.key_index(row, 0);
  for (std::int64_t d = 0; d < layout.padded_dim(); d += 2, to += 2 * kKeyBlock) {
    to[0] = to_bf16(key[d]);
    to[1] = to_bf16(key[d + 1]);
  }
}

}  // namespace

PooledKeys::PooledKeys(const LayerKv& kv, const CacheHeads& heads, const BlockRule& rule, int threads)
    : kv_(kv), heads_(heads), pool_(rule.pool), variance_(rule.variance), threads_(threads) {
  columns_.pools_per_block = rule.k_block / rule.pool;
  columns_.parts = 1 + rule.outliers;
  const auto pool = static_cast<float>(rule.pool);
  columns_.log2_shares[0] = std::log2((pool - static_cast<float>(rule.outliers)) / pool);
  for (std::int64_t i = 1; i < columns_.parts; ++i) columns_.log2_shares[i] = -std::log2(pool);
}

void PooledKeys::reserve(std::int64_t rows) {
  const std::int64_t needed = round_up(columns_up_to(std::max<std::int64_t>(rows, 1) - 1), kCapacityStep);
  if (needed <= capacity_) return;
  const std::int64_t row_bytes = heads_.padded_dim * heads_.element_bytes;
  grow_heads(means_, heads_.kv_heads, capacity_ * row_bytes, needed * row_bytes);
  if (variance_) grow_heads(variances_, heads_.kv_heads, capacity_ * row_bytes, needed * row_bytes);
  capacity_ = needed;
}

void PooledKeys::extend() {
  if (rows_ == kv_.rows) return;
  reserve(kv_.capacity);
  const std::int64_t first = rows_ / pool_, last = (kv_.rows + pool_ - 1) / pool_;
  for (std::int64_t kv_head = 0; kv_head < heads_.kv_heads; ++kv_head) {
    parallel_rows(threads_, last - first, [&](std::int64_t begin, std::int64_t end) {
      pool_rows(kv_head, first + begin, first + end);
    });
  }
  rows_ = kv_.rows;
}

// The rows of [first, past) farthest from the mean, the earlier of equal ones.
void PooledKeys::take_outliers(std::int64_t kv_head, std::int64_t first, std::int64_t past, const float* mean,
                               std::int64_t* rows) const {
  const KvLayout layout = kv_layout(kv_, heads_.dtype);
  float largest[kMaxOutliers];
  std::int64_t found = 0;
  const std::int64_t wanted = columns_.parts - 1;
  for (std::int64_t block = first / kKeyBlock * kKeyBlock; block < past; block += kKeyBlock) {
    float distances[kKeyBlock];
    key_distances(layout, heads_.keys(kv_, kv_head), block, mean, distances);
    for (std::int64_t row = std::max(first, block); row < std::min(past, block + kKeyBlock); ++row) {
      const float distance = distances[row - block];
      std::int64_t at = found;
      while (at > 0 && largest[at - 1] < distance) --at;
      if (at == wanted) continue;
      found = std::min(found + 1, wanted);
      for (std::int64_t i = found - 1; i > at; --i) {
        largest[i] = largest[i - 1];
        rows[i] = rows[i - 1];
      }
      largest[at] = distance;
      rows[at] = row;
    }
  }
}

void PooledKeys::pool_rows(std::int64_t kv_head, std::int64_t begin, std::int64_t end) {
  const KvLayout from = kv_layout(kv_, heads_.dtype), to{heads_.dtype, heads_.dim, capacity_};
  const std::byte* keys = heads_.keys(kv_, kv_head);
  auto* means = const_cast<std::byte*>(this->means(kv_head));
  auto* variances = variance_ ? const_cast<std::byte*>(this->variances(kv_head)) : nullptr;
  // Zeros behind head_dim where it is odd.
  float sums[kMaxHeadDim] = {}, squares[kMaxHeadDim] = {}, mean[kMaxHeadDim] = {}, key[kMaxHeadDim] = {};
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t first = i * pool_, past = std::min(first + pool_, kv_.rows);
    sum_keys(from, keys, first, past, sums, variance_ ? squares : nullptr);
    const float share = 1.0f / static_cast<float>(past - first);
    for (std::int64_t d = 0; d < heads_.dim; ++d) mean[d] = sums[d] * share;
    std::int64_t outliers[kMaxOutliers];
    const bool full = past - first == pool_;  // only a full pool gives its outliers up
    if (full && columns_.parts > 1) take_outliers(kv_head, first, past, mean, outliers);

    const std::int64_t block = i / columns_.pools_per_block;
    const std::int64_t row = block / kKeyBlock * columns_.group() +
                             i % columns_.pools_per_block * columns_.parts * kKeyBlock + block % kKeyBlock;
    for (std::int64_t part = 1; part < columns_.parts; ++part) {
      if (full) load_key(from, keys, outliers[part - 1], key);
      for (std::int64_t d = 0; full && d < heads_.dim; ++d) sums[d] -= key[d];
      store_key(to, full ? key : mean, row + part * kKeyBlock, means);
    }
    const float rest_share = 1.0f / static_cast<float>(full ? pool_ - columns_.parts + 1 : past - first);
    for (std::int64_t d = 0; d < heads_.dim; ++d) key[d] = sums[d] * rest_share;
    store_key(to, key, row, means);
    if (!variance_) continue;
    for (std::int64_t d = 0; d < heads_.dim; ++d) {
      squares[d] = std::max(0.0f, squares[d] * share - mean[d] * mean[d]);
    }
    store_key(to, squares, row, variances);
  }
}

BlockMeans::BlockMeans(const LayerKv& kv, const CacheHeads& heads, std::int64_t k_block, int threads)
    : kv_(kv), heads_(heads), k_block_(k_block), threads_(threads), means_(std::make_shared<LayerKv>()) {
  means_->kv_heads = heads.kv_heads;
  means_->head_dim = heads.dim;
}

void BlockMeans::reserve(std::int64_t blocks) {
  const std::int64_t needed = round_up(std::max<std::int64_t>(blocks, 1), kCapacityStep);
  if (needed <= means_->capacity) return;
  const std::int64_t row_bytes = heads_.padded_dim * heads_.element_bytes;
  for (Buffer* buffer : {&means_->k, &means_->v}) {
    grow_heads(*buffer, heads_.kv_heads, means_->capacity * row_bytes, needed * row_bytes);
  }
  means_->capacity = needed;
}

void BlockMeans::extend() {
  reserve(kv_.capacity / k_block_);
  const std::int64_t first = means_->rows, last = kv_.rows / k_block_;
  if (first == last) return;
  for (std::int64_t kv_head = 0; kv_head < heads_.kv_heads; ++kv_head) {
    parallel_rows(threads_, last - first, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) average(kv_head, first + i);
    });
  }
  for (std::int64_t block = first; block < last; ++block) {
    means_->positions.push_back(static_cast<std::int32_t>(block));
  }
  means_->rows = last;
}

void BlockMeans::average(std::int64_t kv_head, std::int64_t block) {
  const KvLayout from = kv_layout(kv_, heads_.dtype), to = kv_layout(*means_, heads_.dtype);
  auto* k = const_cast<std::byte*>(heads_.keys(*means_, kv_head));
  auto* v = const_cast<std::byte*>(heads_.values(*means_, kv_head));
  float sums[kMaxHeadDim];
  const float share = 1.0f / static_cast<float>(k_block_);
  sum_keys(from, heads_.keys(kv_, kv_head), block * k_block_, (block + 1) * k_block_, sums, nullptr);
  for (std::int64_t d = 0; d < heads_.dim; ++d)
    store_element(heads_.dtype, k, to.key_index(block, d), sums[d] * share);
  sum_values(from, heads_.values(kv_, kv_head), block * k_block_, (block + 1) * k_block_, sums);
  for (std::int64_t d = 0; d < heads_.dim; ++d) {
    store_element(heads_.dtype, v, to.value_index(block, d), sums[d] * share);
  }
}

}  // namespace winnow::cpu
