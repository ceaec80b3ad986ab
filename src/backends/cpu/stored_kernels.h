// Products of quantised weights (stored_blocks.h) with few rows of activations, on the integer dot products
// the CPU offers. Called by stored_weight.cc and tests.
//
// Activations are rounded to int8 with one scale for 32 columns, max|x| / 127, as llama.cpp's Q8_0: the
// products are then exact integers, and what is lost is at most scale / 2 for each activation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "backends/backend.h"
#include "backends/cpu/stored_blocks.h"

namespace winnow::cpu {

constexpr std::int64_t kCacheLine = 64;

// One row of activations.
struct QuantizedRow {
  std::int8_t* q;               // [columns]
  float* scales;                // [columns / 32]
  float* scaled_sums;           // [columns / 32] scale times the sum of q
  std::int32_t* minus_sums128;  // [columns / 32] -128 times the sum of q
  std::int32_t* sums16;         // [columns / 16] sums of q

  static constexpr std::int64_t kScaleColumns = 32;
  // Bytes of the arrays of one row, a multiple of 64.
  static constexpr std::int64_t bytes(std::int64_t columns) {
    return (columns + columns / 32 * 20 + 63) / 64 * 64;
  }
  // A row whose arrays lie in `memory`, aligned to 64.
  static QuantizedRow in(std::byte* memory, std::int64_t columns) {
    auto* floats = reinterpret_cast<float*>(memory + columns);
    const std::int64_t blocks = columns / kScaleColumns;
    auto* sums = reinterpret_cast<std::int32_t*>(floats + 2 * blocks);
    return {reinterpret_cast<std::int8_t*>(memory), floats, floats + blocks, sums, sums + blocks};
  }
};

struct StoredKernels {
  std::string_view name;

  // `x` [columns], columns a multiple of 32.
  void (*quantize_f32)(const float* x, std::int64_t columns, const QuantizedRow& row);
  void (*quantize_bf16)(const BF16* x, std::int64_t columns, const QuantizedRow& row);

  // y[i][lane] = sum over the columns of weight(lane, column) x(i, column), for one group of `blocks` blocks.
  // A row's result does not depend on the other rows, bit for bit.
  void (*multiply)(BlockKind kind, const std::byte* group, std::int64_t blocks,
                   std::span<const QuantizedRow> x, float (*y)[kGroupRows]);

  // y[0, kGroupRows) = sums + bias (null: none), or y += that.
  void (*write_f32)(const float* sums, const float* bias, bool accumulate, float* y);
  void (*write_bf16)(const float* sums, const float* bias, BF16* y);
};

// The fastest for this machine.
const StoredKernels& choose_stored_kernels();

// Single variants; nullptr where the machine cannot run them. The portable one always exists.
const StoredKernels* avx512_vnni_stored_kernels();
const StoredKernels* avx2_stored_kernels();
const StoredKernels& portable_stored_kernels();

}  // namespace winnow::cpu
