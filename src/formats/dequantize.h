// Tensor elements as float32. Exact: each value is what the format defines, rounded once.
//
// Block layouts (32 elements; d, m half precision; q 4 or 8 bit):
//   Q4_0: d, 16 bytes; byte i holds elements i (low nibble) and i + 16 (high). x = d * (q - 8)
//   Q4_1: d, m, 16 bytes in the same order.                                    x = d * q + m
//   Q5_0: d, 4 bytes of fifth bits (bit i: element i), 16 bytes as Q4_0.       x = d * (q - 16)
//   Q5_1: d, m, the same.                                                      x = d * q + m
//   Q8_0: d, 32 signed bytes.                                                  x = d * q
//   IQ4_NL: d, 16 bytes as Q4_0; q is an index into 16 fixed values.           x = d * value[q]
// The K types have blocks of 256: k_quants.h.
#pragma once

#include <cstddef>
#include <span>

#include "core/dtype.h"

namespace winnow {

// `data` holds out.size() elements, a whole number of blocks, at any alignment.
void dequantize(DType dtype, std::span<const std::byte> data, std::span<float> out);

}  // namespace winnow
