// Summaries of a growing cache for block planning: mean (and variance) of the keys of `pool` consecutive
// rows, and mean key and value of whole key blocks. extend() reads new rows only, and those of the one pool
// that was not full.
#pragma once

#include <cstdint>
#include <memory>

#include "backends/cpu/cache_heads.h"
#include "backends/cpu/plan_kernels.h"

namespace winnow::cpu {

// Mean keys, and the outliers beside them, as rows of keys that TileKernels::scores takes (kv_layout.h), in
// the order of PoolColumns.
class PooledKeys {
 public:
  PooledKeys(const LayerKv& kv, const CacheHeads& heads, const BlockRule& rule, int threads);

  void extend();

  const PoolColumns& columns() const { return columns_; }
  // Of one kv head, from the first column on.
  const std::byte* means(std::int64_t kv_head) const { return head_start(means_, kv_head); }
  const std::byte* variances(std::int64_t kv_head) const { return head_start(variances_, kv_head); }

  // The group of columns that cache row `row` belongs to.
  std::int64_t group_of(std::int64_t row) const {
    return row / (pool_ * columns_.pools_per_block) / kKeyBlock;
  }
  // Columns of all groups up to that one.
  std::int64_t columns_up_to(std::int64_t row) const { return (group_of(row) + 1) * columns_.group(); }

 private:
  const std::byte* head_start(const Buffer& buffer, std::int64_t kv_head) const {
    return buffer.as<>() + kv_head * capacity_ * heads_.padded_dim * heads_.element_bytes;
  }
  void reserve(std::int64_t rows);
  void pool_rows(std::int64_t kv_head, std::int64_t begin, std::int64_t end);
  void take_outliers(std::int64_t kv_head, std::int64_t first, std::int64_t past, const float* mean,
                     std::int64_t* rows) const;

  const LayerKv& kv_;
  CacheHeads heads_;
  std::int64_t pool_;
  PoolColumns columns_;
  bool variance_;
  int threads_;
  std::int64_t rows_ = 0, capacity_ = 0;  // cache rows summarised; columns that fit
  Buffer means_, variances_;              // [kv_heads] of capacity_ rows of keys each
};

// BlockPlan::means: mean key and value of every full block of k_block rows.
class BlockMeans {
 public:
  BlockMeans(const LayerKv& kv, const CacheHeads& heads, std::int64_t k_block, int threads);

  void extend();
  std::shared_ptr<const LayerKv> means() const { return means_; }

 private:
  void reserve(std::int64_t blocks);
  void average(std::int64_t kv_head, std::int64_t block);

  const LayerKv& kv_;
  CacheHeads heads_;
  std::int64_t k_block_;
  int threads_;
  std::shared_ptr<LayerKv> means_;
};

}  // namespace winnow::cpu
