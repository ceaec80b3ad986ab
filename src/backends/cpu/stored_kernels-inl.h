// The kernels of stored_kernels.h, written once. A file that includes this defines before, in the anonymous
// namespace: WINNOW_STORED_TARGET, the function target attribute; types Floats and Ints (16 lanes) and Bytes
// (64); and the functions on them that the kernels call. No include guard: each such file makes its own
// kernels.
// NOLINTBEGIN(misc-definitions-in-headers)

// The weights that are read next, fetched a little at every step of a product so that it does not wait for
// memory. Reading ahead of the last group is harmless.
struct Ahead {
  const std::byte* at;
  std::int64_t bytes;  // a step, a multiple of a cache line

  void step() {
    for (std::int64_t b = 0; b < bytes; b += kCacheLine) __builtin_prefetch(at + b);
    at += bytes;
  }
};

// y[lane] of kRows rows over blocks of 32 columns. kOffset is what the kind's integers are moved by.
template <int kRows, bool kNibbles, bool kMinimum, int kOffset>
WINNOW_STORED_TARGET void multiply_32(const std::byte* group, std::int64_t blocks, const QuantizedRow* x,
                                      Ahead ahead, float (*y)[kGroupRows]) {
  constexpr std::int64_t kHeader = kMinimum ? 64 : 32;
  Floats sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = splat(0.0f);
  for (std::int64_t b = 0; b < blocks; ++b) {
    ahead.step();
    const Floats d = load_halves(group);
    const std::byte* bytes = group + kHeader;
    Bytes w[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      if constexpr (kNibbles) {
        const Bytes both = load_bytes(bytes + 64 * (i / 2));
        w[i] = i % 2 == 0 ? low_nibbles(both) : high_nibbles(both);
      } else {
        w[i] = load_bytes(bytes + 64 * i);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const std::int8_t* q = x[r].q + 32 * b;
      Ints even = splat(kOffset * x[r].minus_sums128[b] / 128), odd = splat(std::int32_t{0});
#pragma GCC unroll 4
      for (int i = 0; i < 8; i += 2) {
        even = dot4(even, w[i], q + 4 * i);
        odd = dot4(odd, w[i + 1], q + 4 * i + 4);
      }
      sums[r] = multiply_add(to_floats(add(even, odd)), multiply(d, splat(x[r].scales[b])), sums[r]);
      if constexpr (kMinimum) {
        sums[r] = multiply_add(load_halves(group + 32), splat(x[r].scaled_sums[b]), sums[r]);
      }
    }
    group += kHeader + (kNibbles ? 256 : 512);
  }
  for (int r = 0; r < kRows; ++r) store(sums[r], y[r]);
}

template <int kRows>
WINNOW_STORED_TARGET void multiply_q4_k(const std::byte* group, std::int64_t blocks, const QuantizedRow* x,
                                        Ahead ahead, float (*y)[kGroupRows]) {
  Floats sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = splat(0.0f);
  for (std::int64_t b = 0; b < blocks; ++b, group += block_shape(BlockKind::kQ4K).bytes) {
    Floats scaled[kRows], minimums[kRows];
    for (int r = 0; r < kRows; ++r) scaled[r] = minimums[r] = splat(0.0f);
    for (std::int64_t j = 0; j < 8; ++j) {
      ahead.step();
      const Floats scale = load_u8(group + 64 + 32 * j), minimum = load_u8(group + 80 + 32 * j);
      const std::byte* bytes = group + 320 + 256 * j;
      Bytes w[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const Bytes both = load_bytes(bytes + 64 * (i / 2));
        w[i] = i % 2 == 0 ? low_nibbles(both) : high_nibbles(both);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const std::int8_t* q = x[r].q + 256 * b + 32 * j;
        Ints even = splat(std::int32_t{0}), odd = even;
#pragma GCC unroll 4
        for (int i = 0; i < 8; i += 2) {
          even = dot4(even, w[i], q + 4 * i);
          odd = dot4(odd, w[i + 1], q + 4 * i + 4);
        }
        const Floats x_scale = splat(x[r].scales[8 * b + j]);
        scaled[r] = multiply_add(to_floats(add(even, odd)), multiply(scale, x_scale), scaled[r]);
        minimums[r] = multiply_add(minimum, splat(x[r].scaled_sums[8 * b + j]), minimums[r]);
      }
    }
    const Floats d = load_halves(group), m = load_halves(group + 32);
    for (int r = 0; r < kRows; ++r) {
      sums[r] = multiply_add(d, scaled[r], sums[r]);
      sums[r] = negative_multiply_add(m, minimums[r], sums[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) store(sums[r], y[r]);
}

template <int kRows>
WINNOW_STORED_TARGET void multiply_q6_k(const std::byte* group, std::int64_t blocks, const QuantizedRow* x,
                                        Ahead ahead, float (*y)[kGroupRows]) {
  Floats sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = splat(0.0f);
  for (std::int64_t b = 0; b < blocks; ++b, group += block_shape(BlockKind::kQ6K).bytes) {
    Floats scaled[kRows];
    for (int r = 0; r < kRows; ++r) scaled[r] = splat(0.0f);
    for (std::int64_t j = 0; j < 16; ++j) {
      if (j % 2 == 0) ahead.step();
      const Floats scale = load_i8(group + 32 + 16 * j);
      const std::byte* bytes = group + 288 + 192 * j;
      const Bytes first = load_bytes(bytes), second = load_bytes(bytes + 64), upper = load_bytes(bytes + 128);
      const Bytes w[4] = {combine(low_nibbles(first), upper_bits<0>(upper)),
                          combine(high_nibbles(first), upper_bits<1>(upper)),
                          combine(low_nibbles(second), upper_bits<2>(upper)),
                          combine(high_nibbles(second), upper_bits<3>(upper))};
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const std::int8_t* q = x[r].q + 256 * b + 16 * j;
        Ints dot = splat(-32 * x[r].sums16[16 * b + j]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) dot = dot4(dot, w[i], q + 4 * i);
        const Floats x_scale = splat(x[r].scales[8 * b + j / 2]);
        scaled[r] = multiply_add(to_floats(dot), multiply(scale, x_scale), scaled[r]);
      }
    }
    const Floats d = load_halves(group);
    for (int r = 0; r < kRows; ++r) sums[r] = multiply_add(d, scaled[r], sums[r]);
  }
  for (int r = 0; r < kRows; ++r) store(sums[r], y[r]);
}

template <int kRows>
WINNOW_STORED_TARGET void multiply_rows(BlockKind kind, const std::byte* group, std::int64_t blocks,
                                        const QuantizedRow* x, Ahead ahead, float (*y)[kGroupRows]) {
  switch (kind) {
    case BlockKind::kQ4: return multiply_32<kRows, true, false, 8>(group, blocks, x, ahead, y);
    case BlockKind::kQ4Min: return multiply_32<kRows, true, true, 0>(group, blocks, x, ahead, y);
    case BlockKind::kQ8: return multiply_32<kRows, false, false, 128>(group, blocks, x, ahead, y);
    case BlockKind::kQ8Min: return multiply_32<kRows, false, true, 128>(group, blocks, x, ahead, y);
    case BlockKind::kQ4K: return multiply_q4_k<kRows>(group, blocks, x, ahead, y);
    case BlockKind::kQ6K: return multiply_q6_k<kRows>(group, blocks, x, ahead, y);
  }
}

// Four rows share what was unpacked of the weights; more would not fit the registers.
WINNOW_STORED_TARGET void multiply_group(BlockKind kind, const std::byte* group, std::int64_t blocks,
                                         std::span<const QuantizedRow> x, float (*y)[kGroupRows]) {
  const BlockShape shape = block_shape(kind);
  const std::int64_t steps = blocks * (shape.columns / 32),
                     passes = (static_cast<std::int64_t>(x.size()) + 3) / 4,
                     step_bytes = shape.bytes * blocks / (steps * passes);
  Ahead ahead{group + blocks * shape.bytes, (step_bytes + kCacheLine - 1) / kCacheLine * kCacheLine};
  if (x.size() == 1) ahead.bytes = 0;  // as fast as memory without
  const QuantizedRow* row = x.data();
  std::size_t left = x.size();
  for (; left >= 4; left -= 4, row += 4, y += 4) {
    multiply_rows<4>(kind, group, blocks, row, ahead, y);
    ahead.at += steps * ahead.bytes;
  }
  if (left == 3) multiply_rows<3>(kind, group, blocks, row, ahead, y);
  if (left == 2) multiply_rows<2>(kind, group, blocks, row, ahead, y);
  if (left == 1) multiply_rows<1>(kind, group, blocks, row, ahead, y);
}

template <class T>
WINNOW_STORED_TARGET void quantize(const T* x, std::int64_t columns, const QuantizedRow& row) {
  for (std::int64_t b = 0; b < columns / 32; ++b) {
    const Floats first = load_floats(x + 32 * b), second = load_floats(x + 32 * b + 16);
    const float largest = largest_magnitude(first, second), scale = largest / 127.0f;
    const Floats inverse = splat(largest > 0 ? 127.0f / largest : 0.0f);
    const Ints first_q = round(multiply(first, inverse)), second_q = round(multiply(second, inverse));
    store_bytes(first_q, row.q + 32 * b);
    store_bytes(second_q, row.q + 32 * b + 16);
    const std::int32_t first_sum = sum(first_q), second_sum = sum(second_q);
    row.scales[b] = scale;
    row.scaled_sums[b] = scale * static_cast<float>(first_sum + second_sum);
    row.minus_sums128[b] = -128 * (first_sum + second_sum);
    row.sums16[2 * b] = first_sum;
    row.sums16[2 * b + 1] = second_sum;
  }
}

WINNOW_STORED_TARGET void quantize_f32(const float* x, std::int64_t columns, const QuantizedRow& row) {
  quantize(x, columns, row);
}
WINNOW_STORED_TARGET void quantize_bf16(const BF16* x, std::int64_t columns, const QuantizedRow& row) {
  quantize(x, columns, row);
}

WINNOW_STORED_TARGET void write_f32(const float* sums, const float* bias, bool accumulate, float* y) {
  Floats value = load_floats(sums);
  if (bias != nullptr) value = add(value, load_floats(bias));
  if (accumulate) value = add(load_floats(y), value);
  store(value, y);
}
WINNOW_STORED_TARGET void write_bf16(const float* sums, const float* bias, BF16* y) {
  Floats value = load_floats(sums);
  if (bias != nullptr) value = add(value, load_floats(bias));
  store(value, y);
}

// NOLINTEND(misc-definitions-in-headers)
