// A block of threads takes a group of 16 output features: half a warp a run of columns at a time, a thread an
// output feature, so that a half reads 64 bytes in a row. What the halves found is added up at the end, in
// one order.
#include <cuda_fp16.h>

#include "backends/cuda/device.h"
#include "backends/cuda/numeric.cuh"
#include "backends/cuda/stored_gemv.h"
#include "core/check.h"

namespace winnow::cuda {
namespace {

using cpu::BlockKind;

constexpr int kLanes = static_cast<int>(cpu::kGroupRows);
constexpr int kRun = 32;  // columns: whole runs of one scale, of which blocks of 256 have several
constexpr int kWarps = 16;

// Four bytes less `offset`, as floats: a byte is put below the exponent of 2^23.
__device__ __forceinline__ void to_floats(std::uint32_t bytes, float offset, float (&q)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    q[i] = __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7540 + i)) - (8388608.0f + offset);
  }
}
__device__ __forceinline__ float half_at(const std::uint8_t* at, int lane) {
  return __half2float(reinterpret_cast<const __half*>(at)[lane]);
}
__device__ __forceinline__ std::uint32_t word_at(const std::uint8_t* at, int lane) {
  return __ldg(reinterpret_cast<const std::uint32_t*>(at) + lane);
}

// A lane's weights in 8 columns of a group's block, from column `c` (a multiple of 8; of 16 for kQ6K, whose
// 16 columns are read in two calls). What scales them is read when a new run of columns begins.
template <BlockKind kKind>
class BlockReader {
 public:
  __device__ BlockReader(const std::uint8_t* block, int lane) : block_(block), lane_(lane) {
    d_ = half_at(block, lane);
    if constexpr (kHasMinimum) m_ = half_at(block + 32, lane);
    a_ = d_;
    b_ = kHasMinimum ? m_ : 0.0f;
  }

  __device__ __forceinline__ void read(int c, float (&w)[8]) {
    if constexpr (kKind == BlockKind::kQ4K) {
      if (c % 32 == 0) {
        a_ = d_ * static_cast<float>(block_[64 + c + lane_]);
        b_ = -m_ * static_cast<float>(block_[64 + c + 16 + lane_]);
      }
    }
    if constexpr (kKind == BlockKind::kQ6K) {
      if (c % 16 == 0) {
        a_ = d_ * static_cast<float>(static_cast<std::int8_t>(block_[32 + c + lane_]));
        upper_ = word_at(block_ + 288 + c / 16 * 192 + 128, lane_);
      }
    }
    std::uint32_t low, high;
    if constexpr (kBytes) {
      const std::uint8_t* at = block_ + kData + 16 * c;
      low = word_at(at, lane_);
      high = word_at(at + 64, lane_);
    } else {
      const std::uint8_t* at =
          block_ + (kKind == BlockKind::kQ6K ? 288 + c / 16 * 192 + c % 16 * 8 : kData + 8 * c);
      const std::uint32_t nibbles = word_at(at, lane_);
      low = nibbles & 0x0f0f0f0fu;
      high = nibbles >> 4 & 0x0f0f0f0fu;
      if constexpr (kKind == BlockKind::kQ6K) {
        low |= (upper_ & 0x03030303u) << 4;
        high |= (upper_ >> 2 & 0x03030303u) << 4;
        upper_ >>= 4;
      }
    }
    float q[4];
    to_floats(low, kOffset, q);
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = fmaf(a_, q[i], b_);
    to_floats(high, kOffset, q);
#pragma unroll
    for (int i = 0; i < 4; ++i) w[4 + i] = fmaf(a_, q[i], b_);
  }

 private:
  static constexpr bool kBytes = kKind == BlockKind::kQ8 || kKind == BlockKind::kQ8Min;
  static constexpr bool kHasMinimum =
      kKind == BlockKind::kQ4Min || kKind == BlockKind::kQ8Min || kKind == BlockKind::kQ4K;
  static constexpr int kData = kKind == BlockKind::kQ4K ? 320 : (kHasMinimum ? 64 : 32);
  static constexpr float kOffset =
      kBytes ? 128.0f : (kKind == BlockKind::kQ4 ? 8.0f : (kKind == BlockKind::kQ6K ? 32.0f : 0.0f));

  const std::uint8_t* block_;
  int lane_;
  float d_, m_ = 0.0f, a_, b_;
  std::uint32_t upper_ = 0;
};

__device__ __forceinline__ void load_columns(const bf16* x, float (&v)[8]) { load_pack(x, v); }
__device__ __forceinline__ void load_columns(const float* x, float (&v)[8]) {
  load_pack(x, reinterpret_cast<float(&)[4]>(v[0]));
  load_pack(x + 4, reinterpret_cast<float(&)[4]>(v[4]));
}

template <BlockKind kKind, class T, int kRows>
__global__ void __launch_bounds__(32 * kWarps) stored_gemv(StoredPart part, GemvArgs args) {
  constexpr cpu::BlockShape shape = cpu::block_shape(kKind);
  constexpr int runs_of_block = static_cast<int>(shape.columns) / kRun;
  __shared__ float shared[kWarps][kRows][kLanes];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes, half = thread / kLanes;
  const auto runs = static_cast<int>(args.in / kRun);
  const std::uint8_t* group = part.groups + std::int64_t{blockIdx.x} * (runs / runs_of_block) * shape.bytes;
  const T* x = static_cast<const T*>(args.x);
  const auto rows = static_cast<int>(args.rows);
  float sums[kRows] = {};
  for (int run = half; run < runs; run += 2 * kWarps) {
    BlockReader<kKind> reader(group + run / runs_of_block * shape.bytes, lane);
    const int first = run % runs_of_block * kRun;  // of the block
#pragma unroll
    for (int c = 0; c < kRun; c += 8) {
      float w[8], v[8];
      reader.read(first + c, w);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows) break;
        load_columns(x + r * args.in + run * kRun + c, v);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[r] = fmaf(w[i], v[i], sums[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    sums[r] += __shfl_xor_sync(0xffffffffu, sums[r], kLanes);
    if (thread % 32 < kLanes) shared[thread / 32][r][lane] = sums[r];
  }
  __syncthreads();
  const int r = thread / kLanes;
  const std::int64_t feature = std::int64_t{blockIdx.x} * kLanes + lane;
  if (r >= rows || feature >= part.rows) return;
  float value = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) value += shared[w][r][lane];
  const std::int64_t out = part.first_row + feature;
  if (args.bias != nullptr) value += args.bias[out];
  if (args.y_bf16) {
    static_cast<bf16*>(args.y)[r * args.out + out] = from_f32<bf16>(value);
  } else {
    float* y = static_cast<float*>(args.y) + r * args.out + out;
    *y = args.accumulate ? *y + value : value;
  }
}

template <BlockKind kKind>
__global__ void stored_embed(StoredPart part, int columns, const std::int32_t* rows, float scale,
                             float* hidden) {
  constexpr cpu::BlockShape shape = cpu::block_shape(kKind);
  constexpr auto block_columns = static_cast<int>(shape.columns);
  const std::int64_t row = rows[blockIdx.x] - part.first_row;
  if (row < 0 || row >= part.rows) return;
  const int blocks = columns / block_columns;
  const std::uint8_t* group = part.groups + row / kLanes * blocks * shape.bytes;
  float* to = hidden + std::int64_t{blockIdx.x} * columns;
  for (int at = static_cast<int>(threadIdx.x) * kRun; at < columns;
       at += static_cast<int>(blockDim.x) * kRun) {
    BlockReader<kKind> reader(group + at / block_columns * shape.bytes, static_cast<int>(row % kLanes));
    for (int c = 0; c < kRun; c += 8) {
      float w[8];
      reader.read(at % block_columns + c, w);
      for (int i = 0; i < 8; ++i) to[at + c + i] = scale * w[i];
    }
  }
}

template <BlockKind kKind, class T>
void launch_rows(const StoredPart& part, const GemvArgs& args, cudaStream_t stream) {
  const auto groups = static_cast<unsigned>((part.rows + kLanes - 1) / kLanes);
  constexpr int threads = 32 * kWarps;
  if (args.rows == 1) {
    stored_gemv<kKind, T, 1><<<groups, threads, 0, stream>>>(part, args);
  } else if (args.rows <= 4) {
    stored_gemv<kKind, T, 4><<<groups, threads, 0, stream>>>(part, args);
  } else {
    stored_gemv<kKind, T, 8><<<groups, threads, 0, stream>>>(part, args);
  }
}

// call.operator()<kKind>() for the kind.
template <class Call>
void for_kind(BlockKind kind, const Call& call) {
  switch (kind) {
    case BlockKind::kQ4: return call.template operator()<BlockKind::kQ4>();
    case BlockKind::kQ4Min: return call.template operator()<BlockKind::kQ4Min>();
    case BlockKind::kQ8: return call.template operator()<BlockKind::kQ8>();
    case BlockKind::kQ8Min: return call.template operator()<BlockKind::kQ8Min>();
    case BlockKind::kQ4K: return call.template operator()<BlockKind::kQ4K>();
    case BlockKind::kQ6K: return call.template operator()<BlockKind::kQ6K>();
  }
}

}  // namespace

void launch_stored_gemv(const StoredPart& part, const GemvArgs& args, cudaStream_t stream) {
  check(args.rows <= kMaxGemvRows && args.in % cpu::block_shape(part.kind).columns == 0,
        "stored weights: few rows of whole blocks");
  if (args.rows == 0 || part.rows == 0) return;
  for_kind(part.kind, [&]<BlockKind kKind>() {
    args.bf16 ? launch_rows<kKind, bf16>(part, args, stream) : launch_rows<kKind, float>(part, args, stream);
  });
  check_launch("a product of stored weights");
}

void launch_stored_embed(const StoredPart& part, std::int64_t columns, const std::int32_t* rows, float scale,
                         float* hidden, std::int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  constexpr int kThreads = 64;
  for_kind(part.kind, [&]<BlockKind kKind>() {
    stored_embed<kKind><<<static_cast<unsigned>(count), kThreads, 0, stream>>>(
        part, static_cast<int>(columns), rows, scale, hidden);
  });
  check_launch("embeddings of stored weights");
}

}  // namespace winnow::cuda
