// WorkingCache: what the ops of a prefill work on. Caches in 8 bits are for decoding: a prompt's attention,
// its scorers and what plans its blocks get every row as it was computed, those of earlier turns as far as 8
// bits tell. One layer at a time. Used by the session's prefills.
#pragma once

#include <cstdint>

#include "backends/backend.h"

namespace winnow {

class WorkingCache {
 public:
  // `kv` itself, or where that is in 8 bits a cache of its rows as computed, with room for `rows` in all.
  LayerKv& open(Backend& backend, LayerKv& kv, std::int64_t rows) {
    if (kv.type == KvType::kSame) return kv;
    computed_.kv_heads = kv.kv_heads;
    computed_.head_dim = kv.head_dim;
    computed_.rows = 0;
    computed_.positions.clear();
    backend.reserve(computed_, rows);
    backend.unpack(kv, computed_);
    return computed_;
  }
  // The one that was opened last, which is that of `kv`.
  const LayerKv& of(const LayerKv& kv) const { return kv.type == KvType::kSame ? kv : computed_; }

 private:
  LayerKv computed_;
};

// RopeAppendParams::q8 of an op on an opened cache.
inline LayerKv* q8_of(LayerKv& kv) { return kv.type == KvType::kQ8 ? &kv : nullptr; }

}  // namespace winnow
