// Products of bf16 weights with few rows (decoding), straight from the form oneDNN packs them in for prefill
// on machines with AVX512_BF16: panels of 64 output features, in each of them blocks of 32 input features as
// [16][64][2] (oneDNN's BA16a64b2a). So such weights exist once. Called by gemm_onednn.cc, which checks that
// oneDNN chose this form.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace winnow::cpu {

constexpr std::int64_t kPanelFeatures = 64, kPanelColumns = 32;

// Whether this machine has the instructions.
bool has_panel_kernel();

// y[i][feature] = the dot product of the panel's feature with row i of x [rows, blocks * kPanelColumns]. A
// row's result does not depend on the other rows, bit for bit.
void multiply_panel(const BF16* panel, std::int64_t blocks, const BF16* x, std::int64_t rows,
                    float (*y)[kPanelFeatures]);

}  // namespace winnow::cpu
