// The K types of ggml as float32: blocks of 256 elements whose sub-blocks have scales of their own,
// themselves quantised. Called by dequantize.cc.
//
// Byte order in a block (d, m half precision, unless said otherwise; x of sub-block j):
//   Q2_K: 16 bytes (low nibble scale s, high minimum o), 64 bytes of 2-bit q, d, m.   x = d s q - m o, j of
//   16 Q3_K: 32 bytes of third bits, 64 bytes of 2-bit q, 12 bytes of 6-bit s, d.        x = d (s - 32) (q -
//   4)
//         with the third bit as the 4 of q
//   Q4_K: d, m, 12 bytes of 6-bit s and o, 128 bytes of nibbles q.                    x = d s q - m o, j of
//   32 Q5_K: d, m, 12 bytes as Q4_K, 32 bytes of fifth bits, 128 bytes of nibbles.       x = d s q - m o, j
//   of 32 Q6_K: 128 bytes of nibbles, 64 bytes of 2 high bits, 16 signed bytes s, d.        x = d s (q - 32),
//   j of 16 Q8_K: d as float32, 256 signed bytes q, 16 sums (not needed here).                x = d q
// Elements are packed so that one byte's fields lie 32 (or 64) elements apart; the loops show it.
//
// All products but Q6_K's and Q8_K's have at most 22 significant bits, so they are exact and a fused
// multiply-add changes nothing.
#pragma once

#include <cstddef>

namespace winnow {

// `blocks` blocks from `in`, at any alignment, to 256 floats each.
void dequantize_q2_k(const std::byte* in, float* __restrict out, std::size_t blocks);
void dequantize_q3_k(const std::byte* in, float* __restrict out, std::size_t blocks);
void dequantize_q4_k(const std::byte* in, float* __restrict out, std::size_t blocks);
void dequantize_q5_k(const std::byte* in, float* __restrict out, std::size_t blocks);
void dequantize_q6_k(const std::byte* in, float* __restrict out, std::size_t blocks);
void dequantize_q8_k(const std::byte* in, float* __restrict out, std::size_t blocks);

}  // namespace winnow
