// Quantised products in plain C++, in loops over 16 lanes that compilers vectorise; and the choice among all.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "backends/cpu/stored_kernels.h"

namespace winnow::cpu {
namespace {

#define WINNOW_STORED_TARGET

struct Floats {
  float lane[16];
};
struct Ints {
  std::int32_t lane[16];
};
struct Bytes {
  std::uint8_t byte[64];
};

template <class To, class Of>
To each_lane(Of of) {
  To result;
  for (int i = 0; i < 16; ++i) result.lane[i] = of(i);
  return result;
}
template <class Of>
Bytes each_byte(Of of) {
  Bytes result;
  for (int i = 0; i < 64; ++i) result.byte[i] = static_cast<std::uint8_t>(of(i));
  return result;
}

Floats splat(float value) {
  return each_lane<Floats>([&](int) { return value; });
}
Ints splat(std::int32_t value) {
  return each_lane<Ints>([&](int) { return value; });
}
Floats load_halves(const std::byte* p) {
  return each_lane<Floats>([&](int i) {
    std::uint16_t half;
    std::memcpy(&half, p + 2 * i, sizeof half);
    return half_to_float(half);
  });
}
Floats load_u8(const std::byte* p) {
  return each_lane<Floats>([&](int i) { return static_cast<float>(static_cast<std::uint8_t>(p[i])); });
}
Floats load_i8(const std::byte* p) {
  return each_lane<Floats>([&](int i) { return static_cast<float>(static_cast<std::int8_t>(p[i])); });
}
Bytes load_bytes(const std::byte* p) {
  Bytes result;
  std::memcpy(result.byte, p, sizeof result.byte);
  return result;
}
Bytes low_nibbles(const Bytes& bytes) {
  return each_byte([&](int i) { return bytes.byte[i] & 0x0f; });
}
Bytes high_nibbles(const Bytes& bytes) {
  return each_byte([&](int i) { return bytes.byte[i] >> 4; });
}
// Bits 2 kPart and 2 kPart + 1 of every byte, as bits 4 and 5.
template <int kPart>
Bytes upper_bits(const Bytes& bytes) {
  return each_byte([&](int i) { return (bytes.byte[i] >> 2 * kPart & 3) << 4; });
}
Bytes combine(const Bytes& a, const Bytes& b) {
  return each_byte([&](int i) { return a.byte[i] | b.byte[i]; });
}
// sums[lane] += sum over j of bytes[4 lane + j] * quad[j]
Ints dot4(const Ints& sums, const Bytes& bytes, const std::int8_t* quad) {
  return each_lane<Ints>([&](int i) {
    const std::uint8_t* four = bytes.byte + 4 * i;
    return sums.lane[i] + four[0] * quad[0] + four[1] * quad[1] + four[2] * quad[2] + four[3] * quad[3];
  });
}
Ints add(const Ints& a, const Ints& b) {
  return each_lane<Ints>([&](int i) { return a.lane[i] + b.lane[i]; });
}
Floats to_floats(const Ints& a) {
  return each_lane<Floats>([&](int i) { return static_cast<float>(a.lane[i]); });
}
Floats multiply(const Floats& a, const Floats& b) {
  return each_lane<Floats>([&](int i) { return a.lane[i] * b.lane[i]; });
}
Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
  return each_lane<Floats>([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
Floats negative_multiply_add(const Floats& a, const Floats& b, const Floats& c) {
  return each_lane<Floats>([&](int i) { return c.lane[i] - a.lane[i] * b.lane[i]; });
}
Floats add(const Floats& a, const Floats& b) {
  return each_lane<Floats>([&](int i) { return a.lane[i] + b.lane[i]; });
}
void store(const Floats& a, float* p) { std::memcpy(p, a.lane, sizeof a.lane); }
void store(const Floats& a, BF16* p) {
  for (int i = 0; i < 16; ++i) p[i] = to_bf16(a.lane[i]);
}
Floats load_floats(const float* p) {
  return each_lane<Floats>([&](int i) { return p[i]; });
}
Floats load_floats(const BF16* p) {
  return each_lane<Floats>([&](int i) { return to_float(p[i]); });
}
float largest_magnitude(const Floats& a, const Floats& b) {
  float largest = 0;
  for (int i = 0; i < 16; ++i) largest = std::max({largest, std::abs(a.lane[i]), std::abs(b.lane[i])});
  return largest;
}
Ints round(const Floats& a) {
  return each_lane<Ints>([&](int i) { return static_cast<std::int32_t>(std::nearbyint(a.lane[i])); });
}
void store_bytes(const Ints& a, std::int8_t* p) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<std::int8_t>(a.lane[i]);
}
std::int32_t sum(const Ints& a) { return std::accumulate(a.lane, a.lane + 16, 0); }

#include "backends/cpu/stored_kernels-inl.h"

constexpr StoredKernels kKernels{"portable",     quantize_f32, quantize_bf16,
                                 multiply_group, write_f32,    write_bf16};

}  // namespace

const StoredKernels& portable_stored_kernels() { return kKernels; }

const StoredKernels& choose_stored_kernels() {
  for (const StoredKernels* kernels : {avx512_vnni_stored_kernels(), avx2_stored_kernels()}) {
    if (kernels != nullptr) return *kernels;
  }
  return portable_stored_kernels();
}

}  // namespace winnow::cpu
