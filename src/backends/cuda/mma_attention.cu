// Dense causal attention on bf16 tensor cores (mma.sync), for queries at any cache rows: what cuDNN's
// attention does not take, such as the queries that a stage has left gaps between.
//
// FlashAttention-2's scheme (arXiv 2307.08691): a block of threads holds 128 queries of one head, 16 a warp,
// and passes over the keys 64 at a time, two tiles in flight. A row of a tile in shared memory has eight
// elements more than head_dim, so that ldmatrix meets no bank twice.
#include <cmath>

#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kQueries = 16 * kWarps, kKeys = 64, kPad = 8;

__device__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}
// Sixteen bytes from global to shared memory; zeros unless `valid`.
__device__ void copy16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0));
}
__device__ void load4(std::uint32_t (&r)[4], const bf16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
__device__ void load4_transposed(std::uint32_t (&r)[4], const bf16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}
// c += a b for a [16, 16], b [16, 8].
__device__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(pair);
}

template <int kDim>
struct Shared {
  bf16 q[kQueries][kDim + kPad];
  bf16 k[2][kKeys][kDim + kPad];
  bf16 v[2][kKeys][kDim + kPad];
  std::int64_t query_rows[kQueries];
};

// `rows` rows of kDim elements from row `begin` on, those at `end` and behind it as zeros.
template <int kDim>
__device__ void load_tile(bf16 (*to)[kDim + kPad], const bf16* from, std::int64_t stride, std::int64_t begin,
                          std::int64_t end, int rows) {
  constexpr int kPacks = kDim / 8;
  for (int i = threadIdx.x; i < rows * kPacks; i += kThreads) {
    const int row = i / kPacks, pack = i % kPacks;
    const bool valid = begin + row < end;
    copy16(&to[row][8 * pack], from + (valid ? begin + row : 0) * stride + 8 * pack, valid);
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, kDim <= 128 ? 2 : 1)
    mma_attention_kernel(PlainAttentionArgs args, std::int64_t cache_rows) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<kDim>*>(memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const std::int64_t head = blockIdx.x, kv_head = head / (args.heads / args.cache.kv_heads);
  // The last queries see most keys: they begin first.
  const std::int64_t first_query = (gridDim.y - 1 - blockIdx.y) * std::int64_t{kQueries};
  const std::int64_t queries = args.rows - first_query < kQueries ? args.rows - first_query : kQueries;
  const std::int64_t q_stride = args.heads * kDim, kv_stride = args.cache.kv_heads * kDim;
  const bf16* keys = static_cast<const bf16*>(args.cache.k) + kv_head * kDim;
  const bf16* values = static_cast<const bf16*>(args.cache.v) + kv_head * kDim;

  for (int i = threadIdx.x; i < kQueries; i += kThreads) {
    shared.query_rows[i] = args.query_rows[first_query + (i < queries ? i : queries - 1)];
  }
  load_tile<kDim>(shared.q, static_cast<const bf16*>(args.q) + first_query * q_stride + head * kDim, q_stride,
                  0, queries, kQueries);
  __syncthreads();
  const std::int64_t lowest = shared.query_rows[0], end = shared.query_rows[queries - 1] + 1;
  const bool windowed = args.first_rows != nullptr;
  const std::int64_t first_tile = windowed ? args.first_rows[first_query] / kKeys : 0;
  const std::int64_t last_first = windowed ? args.first_rows[first_query + queries - 1] : 0;
  const std::int64_t tiles = (end + kKeys - 1) / kKeys;
  load_tile<kDim>(shared.k[0], keys, kv_stride, first_tile * kKeys, cache_rows, kKeys);
  load_tile<kDim>(shared.v[0], values, kv_stride, first_tile * kKeys, cache_rows, kKeys);
  asm volatile("cp.async.commit_group;\n");

  // Of this lane: two queries, 8 apart, and of each two of every eight columns.
  const std::int64_t rows[2] = {shared.query_rows[16 * warp + lane / 4],
                                shared.query_rows[16 * warp + lane / 4 + 8]};
  const auto first_row = [&](int r) {
    const std::int64_t query = 16 * warp + lane / 4 + 8 * r;
    return windowed ? args.first_rows[first_query + (query < queries ? query : queries - 1)] : 0;
  };
  const std::int64_t firsts[2] = {first_row(0), first_row(1)};
  float out[kDim / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  const float scale = args.scale * 1.44269504088896341f;  // exponentials to base 2

  for (std::int64_t tile = first_tile; tile < tiles; ++tile) {
    const int stage = static_cast<int>(tile - first_tile) & 1;
    if (tile + 1 < tiles) {
      load_tile<kDim>(shared.k[stage ^ 1], keys, kv_stride, (tile + 1) * kKeys, cache_rows, kKeys);
      load_tile<kDim>(shared.v[stage ^ 1], values, kv_stride, (tile + 1) * kKeys, cache_rows, kKeys);
      asm volatile("cp.async.commit_group;\n");
      asm volatile("cp.async.wait_group 1;\n");
    } else {
      asm volatile("cp.async.wait_group 0;\n");
    }
    __syncthreads();

    float logits[kKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      std::uint32_t a[4];
      load4(a, &shared.q[16 * warp + lane % 16][d + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < kKeys; n += 16) {
        std::uint32_t b[4];
        load4(b, &shared.k[stage][n + lane % 8 + lane / 16 * 8][d + lane / 8 % 2 * 8]);
        multiply_add(logits[n / 8], a, b[0], b[1]);
        multiply_add(logits[n / 8 + 1], a, b[2], b[3]);
      }
    }

    const std::int64_t begin = tile * kKeys;
    const bool masked = begin + kKeys > lowest + 1 || begin < last_first;
    if (masked) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const std::int64_t key = begin + 8 * n + lane % 4 * 2 + i % 2;
          if (key > rows[i / 2] || key < firsts[i / 2]) logits[n][i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = highest[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(logits[n][2 * r], logits[n][2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float safe = top == -INFINITY ? 0.0f : top;  // nothing seen yet
      const float factor = exp2f((highest[r] - safe) * scale);
      highest[r] = top;
      total[r] *= factor;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) out[n][2 * r] *= factor, out[n][2 * r + 1] *= factor;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float share = exp2f((logits[n][2 * r + i] - safe) * scale);
          logits[n][2 * r + i] = share;
          total[r] += share;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kKeys; n += 16) {
      const float(&low)[4] = logits[n / 8];
      const float(&high)[4] = logits[n / 8 + 1];
      const std::uint32_t a[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]),
                                  pack(high[2], high[3])};
#pragma unroll
      for (int d = 0; d < kDim; d += 16) {
        std::uint32_t b[4];
        load4_transposed(b, &shared.v[stage][n + lane % 16][d + lane / 16 * 8]);
        multiply_add(out[d / 8], a, b[0], b[1]);
        multiply_add(out[d / 8 + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
    const int query = 16 * warp + lane / 4 + 8 * r;
    if (query >= queries) continue;
    const float factor = total[r] > 0.0f ? 1.0f / total[r] : 0.0f;
    bf16* to = static_cast<bf16*>(args.out) + (first_query + query) * q_stride + head * kDim + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<std::uint32_t*>(to + 8 * n) =
          pack(out[n][2 * r] * factor, out[n][2 * r + 1] * factor);
    }
  }
}

template <int kDim>
void launch(const PlainAttentionArgs& args, std::int64_t last_row, cudaStream_t stream) {
  const auto kernel = mma_attention_kernel<kDim>;
  constexpr int kBytes = sizeof(Shared<kDim>);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
             "attention's shared memory");
  const dim3 grid(static_cast<unsigned>(args.heads),
                  static_cast<unsigned>((args.rows + kQueries - 1) / kQueries));
  kernel<<<grid, kThreads, kBytes, stream>>>(args, last_row + 1);
  check_launch("attention");
}

}  // namespace

bool mma_attention_takes(std::int64_t head_dim) {
  return head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

void launch_mma_attention(const PlainAttentionArgs& args, std::int64_t last_row, cudaStream_t stream) {
  if (args.rows == 0) return;
  switch (args.cache.head_dim) {
    case 64: return launch<64>(args, last_row, stream);
    case 96: return launch<96>(args, last_row, stream);
    case 128: return launch<128>(args, last_row, stream);
    default: return launch<256>(args, last_row, stream);
  }
}

}  // namespace winnow::cuda
