#include "backends/cpu/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace winnow::cpu {

#if defined(__x86_64__)
namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(unsigned leaf, unsigned subleaf) {
  Leaf r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

std::uint64_t enabled_state() {  // XCR0: register state the system saves
  if ((cpuid(1, 0).ecx & (1u << 27)) == 0) return 0;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

bool detect_avx2() {
  constexpr std::uint64_t kAvxState = 0x6;
  constexpr unsigned kFma = 1u << 12, kF16c = 1u << 29;
  return (cpuid(7, 0).ebx & (1u << 5)) && (cpuid(1, 0).ecx & kFma) && (cpuid(1, 0).ecx & kF16c) &&
         (enabled_state() & kAvxState) == kAvxState;
}

bool detect_avx512() {  // F, DQ, BW, VL and FMA
  constexpr std::uint64_t kAvx512State = 0xe6;
  const unsigned ebx = cpuid(7, 0).ebx;
  return (ebx & (1u << 16)) && (ebx & (1u << 17)) && (ebx & (1u << 30)) && (ebx & (1u << 31)) &&
         (cpuid(1, 0).ecx & (1u << 12)) && (enabled_state() & kAvx512State) == kAvx512State;
}

bool detect_avx512_vnni() { return detect_avx512() && detect_avx2() && (cpuid(7, 0).ecx & (1u << 11)); }
bool detect_avx512_bf16() { return detect_avx512() && (cpuid(7, 1).eax & (1u << 5)); }

bool detect_amx_bf16() {
  constexpr std::uint64_t kTileState = 0x60000;
  const unsigned edx = cpuid(7, 0).edx;
  if (!(edx & (1u << 22)) || !(edx & (1u << 24)) || (enabled_state() & kTileState) != kTileState)
    return false;
  constexpr long kRequestPermission = 0x1023,
                 kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool has_avx2() {
  static const bool has = detect_avx2();
  return has;
}
bool has_avx512_vnni() {
  static const bool has = detect_avx512_vnni();
  return has;
}
bool has_avx512_bf16() {
  static const bool has = detect_avx512_bf16();
  return has;
}
bool has_amx_bf16() {
  static const bool has = has_avx512_bf16() && detect_amx_bf16();
  return has;
}
#else
bool has_avx2() { return false; }
bool has_avx512_vnni() { return false; }
bool has_avx512_bf16() { return false; }
bool has_amx_bf16() { return false; }
#endif

}  // namespace winnow::cpu
