// Single-threaded SIMD kernels of the CPU backend (Highway, dispatched at run time). cpu_backend.cc splits
// rows over threads and calls them; tests call them for every target.
#pragma once

#include <cstdint>

#include "backends/backend.h"

namespace winnow::cpu {

void norm_rows(const NormParams& params, std::int64_t begin, std::int64_t end);
void activation_rows(const ActivationParams& params, std::int64_t begin, std::int64_t end);
void convert_rows(const MatrixView& x, const MatrixView& y, std::int64_t begin, std::int64_t end);
void row_norms_range(const MatrixView& x, float* norms, std::int64_t begin, std::int64_t end);

// Rows [begin, end) of params.qkv: q rotated into params.q, k rotated and v written to cache rows first_row +
// i. `first_row` is kv->rows before the append. Two threads may write rows of one 16-row block: they touch
// different bytes.
void rope_append_rows(const RopeAppendParams& params, std::int64_t first_row, std::int64_t begin,
                      std::int64_t end);

}  // namespace winnow::cpu
