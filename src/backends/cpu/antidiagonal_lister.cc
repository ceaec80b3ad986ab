// BlockEstimator::kAntidiagonal, XAttention (arXiv 2503.16428). A strided key is `stride` consecutive cache
// rows side by side, a strided query as many consecutive queries in reverse order; their product is the sum
// over an antidiagonal of a stride x stride cell of q k^T, divided by `stride`. What is wanting at the end of
// the call or of the cache counts zero.
#include <cstring>

#include "backends/cpu/parallel.h"
#include "backends/cpu/plan_kernels.h"
#include "backends/cpu/tile_lister.h"

namespace winnow::cpu {
namespace {

// The largest part of a stride whose rows side by side the tile kernels take as one dimension.
std::int64_t part_rows(std::int64_t stride, std::int64_t padded_dim) {
  std::int64_t rows = stride;
  while (rows > 1 && (stride % rows != 0 || rows * padded_dim > kMaxHeadDim)) --rows;
  return rows;
}

class AntidiagonalLister final : public TileLister {
 public:
  explicit AntidiagonalLister(const ListerParams& params)
      : TileLister(params, params.params.rule.stride * params.heads.padded_dim),
        stride_(rule().stride),
        part_rows_(part_rows(stride_, params.heads.padded_dim)),
        parts_(stride_ / part_rows_),
        part_dim_(part_rows_ * params.heads.padded_dim) {}

 private:
  void extend_keys() override;
  bool adds_scores() const override { return parts_ > 1; }
  std::int64_t next_sample(std::int64_t i, std::int64_t) const override { return i + stride_; }

  // Row r of a stride meets query stride - 1 - r.
  std::int64_t gather(const PlanCall& call, std::int64_t query, std::int64_t head, Scratch& scratch,
                      std::int64_t slot) const override {
    const std::int64_t last = std::min(query + stride_, call.q.rows) - 1;
    for (std::int64_t r = 0; r < stride_; ++r) {
      std::byte* to = scratch.q.as<>() + sample_offset(slot, r) * p_.heads.element_bytes;
      const std::int64_t from = query + stride_ - 1 - r;
      if (from <= last) {
        p_.heads.copy_query(call.q, from, head, to);
      } else {
        std::memset(to, 0, static_cast<std::size_t>(p_.heads.dim * p_.heads.element_bytes));
      }
    }
    return call.query_rows[last];
  }
  std::int64_t sample_offset(std::int64_t slot, std::int64_t r) const {
    return (r / part_rows_ * kTileQueries + slot) * part_dim_ + r % part_rows_ * p_.heads.padded_dim;
  }

  std::int64_t columns(std::int64_t row) const override { return row / stride_ / 32 * 32 + 32; }
  std::int64_t first_column(std::int64_t row) const override { return row / stride_ / 32 * 32; }

  void score(std::int64_t kv_head, std::int64_t first, std::int64_t end, Scratch& scratch) const override {
    const std::int64_t row_bytes = part_dim_ * p_.heads.element_bytes;
    for (std::int64_t part = 0; part < parts_; ++part) {
      float* s = (part == 0 ? scratch.s.as<float>() : scratch.more.as<float>()) + first;
      p_.kernels.scores(scratch.q.as<>() + part * kTileQueries * row_bytes,
                        part_keys(kv_head, part) + first * row_bytes, part_dim_, end - first, s, s_stride_);
      if (part == 0) continue;
      for (std::size_t i = 0; i < scratch.tile.size(); ++i) {
        add_scaled(scores_of(scratch, i) + first, s + static_cast<std::int64_t>(i) * s_stride_, 1.0f,
                   end - first);
      }
    }
  }

  void fold(Scratch& scratch) const override {
    const CellFold how{.cells_per_block = rule().k_block / stride_,
                       .criterion = rule().criterion,
                       .largest = false,
                       .scale = p_.params.scale / static_cast<float>(stride_)};
    for (std::size_t i = 0; i < scratch.tile.size(); ++i) {
      fold_cells(scores_of(scratch, i), scratch.tile[i].first / stride_, scratch.tile[i].row / stride_ + 1,
                 how, scratch.cells.as<float>(), estimates_of(scratch, i));
    }
  }

  std::byte* part_keys(std::int64_t kv_head, std::int64_t part) const {
    return keys_.as<>() + (kv_head * parts_ + part) * capacity_ * part_dim_ * p_.heads.element_bytes;
  }
  template <class T>
  void append_rows(std::int64_t kv_head, std::int64_t begin, std::int64_t end);

  std::int64_t stride_, part_rows_, parts_, part_dim_;
  std::int64_t rows_ = 0, capacity_ = 0;  // cache rows taken over; strided keys that fit
  Buffer keys_;                           // [kv_heads, parts] of capacity_ rows of keys of part_dim each
};

void AntidiagonalLister::extend_keys() {
  const LayerKv& kv = *p_.params.kv;
  const std::int64_t needed = columns(std::max<std::int64_t>(kv.capacity, 1) - 1);
  if (needed > capacity_) {
    const std::int64_t row_bytes = part_dim_ * p_.heads.element_bytes;
    grow_heads(keys_, p_.heads.kv_heads * parts_, capacity_ * row_bytes, needed * row_bytes);
    capacity_ = needed;
  }
  for (std::int64_t kv_head = 0; kv_head < p_.heads.kv_heads; ++kv_head) {
    parallel_rows(p_.threads, kv.rows - rows_, [&](std::int64_t begin, std::int64_t end) {
      if (p_.heads.dtype == DType::kBF16) {
        append_rows<std::uint32_t>(kv_head, rows_ + begin, rows_ + end);
      } else {
        append_rows<float>(kv_head, rows_ + begin, rows_ + end);
      }
    });
  }
  rows_ = kv.rows;
}

// T is what the layout keeps together of a row: a float, or a pair of bf16.
template <class T>
void AntidiagonalLister::append_rows(std::int64_t kv_head, std::int64_t begin, std::int64_t end) {
  const KvLayout from = kv_layout(*p_.params.kv, p_.heads.dtype);
  const KvLayout to{p_.heads.dtype, part_dim_, capacity_};
  const std::int64_t step = static_cast<std::int64_t>(sizeof(T)) / p_.heads.element_bytes;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t r = row % stride_;
    const std::byte* source =
        p_.heads.keys(*p_.params.kv, kv_head) + from.key_index(row, 0) * p_.heads.element_bytes;
    std::byte* target =
        part_keys(kv_head, r / part_rows_) +
        to.key_index(row / stride_, r % part_rows_ * p_.heads.padded_dim) * p_.heads.element_bytes;
    // The next element (or pair) of a row is a whole key block further in both.
    for (std::int64_t i = 0; i < p_.heads.padded_dim / step * kKeyBlock; i += kKeyBlock) {
      reinterpret_cast<T*>(target)[i] = reinterpret_cast<const T*>(source)[i];
    }
  }
}

}  // namespace

std::unique_ptr<BlockLister> make_antidiagonal_lister(const ListerParams& params) {
  return std::make_unique<AntidiagonalLister>(params);
}

}  // namespace winnow::cpu
