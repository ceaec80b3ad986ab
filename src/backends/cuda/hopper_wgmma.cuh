// wgmma (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply"): D[64, N] += A[64, 16] B[16, N], bf16 into
// float32, by the 128 threads of a warpgroup. For the Hopper kernels of this folder only; sm_90a.
//
// Of a warpgroup's accumulator, thread t holds d[4 j + 2 r + e] = D[16 (t / 32) + t % 32 / 4 + 8 r][8 j + 2
// (t % 4) + e]. `ss` takes A and B from shared memory, both with k contiguous; `rs` takes A from registers,
// in pairs of neighbouring k (the accumulator's own order: columns 16 i .. 16 i + 15 of a D are the A of step
// i), and B from shared memory with n contiguous. accumulate 0: D = A B.
#pragma once

#include <cstdint>

namespace winnow::cuda::hopper {

template <int kColumns>
struct Wgmma;

// A tile in shared memory, rows of 64 bf16 (128 bytes) with the 128-byte swizzle, 8 rows an atom of 1024
// bytes. `chunk_bytes`: from columns 0..63 to 64..127 where n is the contiguous dimension; not used where k
// is.
__device__ __forceinline__ std::uint64_t tile_descriptor(std::uint32_t address, std::uint32_t chunk_bytes) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62, kAtomStride = std::uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kAtomStride | (std::uint64_t{chunk_bytes >> 4} << 16) | ((address & 0x3ffff) >> 4);
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kGroups committed groups are still running.
template <int kGroups>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

// Operands in the instruction's text (%0 .. %31 and so on), and the accumulators they stand for.
#define WINNOW_TEN(n) \
  "%" #n "0, %" #n "1, %" #n "2, %" #n "3, %" #n "4, %" #n "5, %" #n "6, %" #n "7, %" #n "8, %" #n "9, "
#define WINNOW_P30 WINNOW_TEN() WINNOW_TEN(1) WINNOW_TEN(2)
#define WINNOW_P60 WINNOW_P30 WINNOW_TEN(3) WINNOW_TEN(4) WINNOW_TEN(5)
#define WINNOW_P32 WINNOW_P30 "%30, %31"
#define WINNOW_P48 WINNOW_P30 WINNOW_TEN(3) "%40, %41, %42, %43, %44, %45, %46, %47"
#define WINNOW_P64 WINNOW_P60 "%60, %61, %62, %63"
#define WINNOW_P128                                                                 \
  WINNOW_P60 WINNOW_TEN(6) WINNOW_TEN(7) WINNOW_TEN(8) WINNOW_TEN(9) WINNOW_TEN(10) \
      WINNOW_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define WINNOW_D8(i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define WINNOW_D32(i) WINNOW_D8(i), WINNOW_D8(i + 8), WINNOW_D8(i + 16), WINNOW_D8(i + 24)

template <>
struct Wgmma<64> {
  static __device__ __forceinline__ void ss(float (&d)[32], std::uint64_t a, std::uint64_t b,
                                            int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WINNOW_P32 "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
        : WINNOW_D32(0)
        : "l"(a), "l"(b), "r"(accumulate));
  }
  static __device__ __forceinline__ void rs(float (&d)[32], const std::uint32_t (&a)[4], std::uint64_t b,
                                            int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WINNOW_P32
        "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
        : WINNOW_D32(0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};

template <>
struct Wgmma<96> {
  static __device__ __forceinline__ void rs(float (&d)[48], const std::uint32_t (&a)[4], std::uint64_t b,
                                            int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %53, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {" WINNOW_P48
        "}, {%48, %49, %50, %51}, %52, p, 1, 1, 1;\n}\n"
        : WINNOW_D32(0), WINNOW_D8(32), WINNOW_D8(40)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};

template <>
struct Wgmma<128> {
  static __device__ __forceinline__ void ss(float (&d)[64], std::uint64_t a, std::uint64_t b,
                                            int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WINNOW_P64
        "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
        : WINNOW_D32(0), WINNOW_D32(32)
        : "l"(a), "l"(b), "r"(accumulate));
  }
  static __device__ __forceinline__ void rs(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b,
                                            int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WINNOW_P64
        "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
        : WINNOW_D32(0), WINNOW_D32(32)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};

template <>
struct Wgmma<256> {
  static __device__ __forceinline__ void ss(float (&d)[128], std::uint64_t a, std::uint64_t b,
                                            int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WINNOW_P128
        "}, %128, %129, p, 1, 1, 0, 0;\n}\n"
        : WINNOW_D32(0), WINNOW_D32(32), WINNOW_D32(64), WINNOW_D32(96)
        : "l"(a), "l"(b), "r"(accumulate));
  }
  static __device__ __forceinline__ void rs(float (&d)[128], const std::uint32_t (&a)[4], std::uint64_t b,
                                            int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WINNOW_P128
        "}, {%128, %129, %130, %131}, %132, p, 1, 1, 1;\n}\n"
        : WINNOW_D32(0), WINNOW_D32(32), WINNOW_D32(64), WINNOW_D32(96)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
  }
};

#undef WINNOW_TEN
#undef WINNOW_P30
#undef WINNOW_P60
#undef WINNOW_P32
#undef WINNOW_P48
#undef WINNOW_P64
#undef WINNOW_P128
#undef WINNOW_D8
#undef WINNOW_D32

}  // namespace winnow::cuda::hopper
