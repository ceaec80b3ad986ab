// What a prefill will do, known before it starts.
#pragma once

#include <cstdint>
#include <vector>

#include "sparsity/policy.h"

namespace winnow {

// Rows a layer works on at a time: bounds the activations, and keeps a thread's share of them in its L2 cache.
constexpr std::int64_t kChunkRows = 512;

// Cache rows that each layer gets from a prompt of `tokens`: an upper bound where a stage keeps by top_p.
std::vector<std::int64_t> rows_by_layer(const Policy& policy, std::int64_t layers, std::int64_t tokens);

}  // namespace winnow
