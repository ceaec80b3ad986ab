// Attention of single queries over long caches, as decoding asks: keys and values are read once for all query
// heads that share them, and a cache is cut into pieces of kPieceRows rows that the threads share out. Pieces
// depend on what the query sees alone and are merged in order, so the result does not depend on the number of
// threads or on what other conversations are computed along. Called by the CPU backend.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/decode_kernel.h"
#include "backends/cpu/q8_kernel.h"

namespace winnow::cpu {

class DecodeAttention {
 public:
  // Whether run() takes them: one row that sees everything, and instructions for this cache, of which those
  // in 8 bits need none.
  static bool takes(const AttentionParams& params, DType dtype);

  void run(std::span<const AttentionParams> queries, int threads);

 private:
  // One query's heads of one kv head.
  struct Head {
    const AttentionParams* params;
    std::int64_t kv_head, first, limit, pieces;  // sees cache rows [first, limit)
    std::int64_t q8_queries;                     // its first one in q8_queries_, where its cache is in 8 bits
  };
  struct Piece {
    std::int64_t head, index;
  };

  void list(std::span<const AttentionParams> queries);
  void attend(const Piece& piece, const Piece& next);
  std::int64_t first_row(const Piece& piece) const;
  const BF16* keys(const Piece& piece) const;
  // What comes out of a piece goes to `partial`.
  PieceRange range_of(const Piece& piece, float* partial) const;
  void attend_bf16(const Piece& piece, const Piece& next, float* partial) const;
  void attend_q8(const Piece& piece, const Piece& next, float* partial) const;
  std::int64_t prepare_q8(const AttentionParams& params, std::int64_t kv_head);
  void merge(const Head& head) const;

  std::vector<Head> heads_;
  std::vector<Piece> pieces_;
  std::vector<std::int64_t> offsets_;                  // [heads_] of a head's first piece in partial_
  std::unique_ptr<std::atomic<std::int64_t>[]> left_;  // [heads_] pieces not finished yet
  std::size_t left_size_ = 0;
  Buffer partial_;
  std::vector<Q8Query> q8_queries_;  // of these the first used_
  std::size_t used_ = 0;
};

}  // namespace winnow::cpu
