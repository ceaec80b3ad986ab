// What a prefill will do, known before it starts.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/backend.h"
#include "model/architecture.h"
#include "sparsity/policy.h"

namespace winnow {

// Rows a layer works on at a time where the host computes (Backend::chunk_rows()): bounds the activations,
// and keeps a thread's share of them in its L2 cache.
constexpr std::int64_t kChunkRows = 512;

// Cache rows that each layer gets from a prompt of `tokens`: an upper bound where a stage keeps by top_p.
std::vector<std::int64_t> rows_by_layer(const Policy& policy, std::int64_t layers, std::int64_t tokens);

// Bytes a run needs.
struct MemoryEstimate {
  std::int64_t weights = 0, kv = 0;
  std::int64_t activations = 0;  // and what choosing blocks of attention needs
  std::int64_t total() const { return weights + kv + activations; }
};

// For a prompt of `prompt_tokens` and `new_tokens` more under `policy`, whose stages shorten the caches,
// beside `weights` bytes (loaded_bytes()). Of a rank's part of a model, arch.layers are those from
// `first_layer` on. `type`: of the caches; where it is not kSame, the layer at work has one of kSame as well,
// which counts as activations: of the prompt and of the `earlier_rows` that a layer already has.
MemoryEstimate estimate_memory(std::int64_t weights, const Architecture& arch, const Backend& backend,
                               std::int64_t prompt_tokens, std::int64_t new_tokens, const Policy& policy,
                               std::int64_t first_layer = 0, KvType type = KvType::kSame,
                               std::int64_t earlier_rows = 0);

}  // namespace winnow
