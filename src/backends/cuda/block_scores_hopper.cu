// Scores of key blocks with the tensor cores: a matrix product of asked queries and summary rows whose result
// is folded to one number a block while it is in registers.
//
// A block of threads takes 192 samples of one kv head (heads of a group and query blocks side by side, so
// that tiles are full) against a run of summary rows: three warpgroups hold 64 samples each, a producer warp
// brings 128 rows a step. The order of the rows (block_scores.h) gives every thread whole blocks, so folding
// needs no exchange.
#include <cuda_bf16.h>

#include <algorithm>
#include <numeric>

#include "backends/cuda/block_scores.h"
#include "backends/cuda/device.h"
#include "backends/cuda/hopper_memory.cuh"
#include "backends/cuda/hopper_wgmma.cuh"
#include "backends/cuda/tensor_map.h"

namespace winnow::cuda {
namespace {

using namespace hopper;

constexpr int kWarpgroups = 3, kSamples = 64 * kWarpgroups, kColumns = 128, kMaxParts = 128;

struct ScoreArgs {
  CUtensorMap summary;
  CUtensorMap packed;  // antidiagonals: the strided queries of a kv head side by side
  const __nv_bfloat16* q;
  std::int64_t q_row_stride;
  const std::int32_t* query_rows;
  float* scores;
  std::int64_t score_stride;
  int first_row, queries, head_dim, group, q_block, query_stride, samples, query_blocks;
  int flat_samples;  // of a kv head
  int chunks;        // of 64 columns of a summary row
  int stride;        // antidiagonals: queries and cache rows side by side; else 0
  int k_block, pool, pools, parts, outliers, tiles_per_split, splits;
  float scale_log2, pool_share;  // 1 / pool; antidiagonals: as good as infinite
};

// Where a sample of a kv head is.
struct Sample {
  int query = -1, row = -1;  // -1: none
  int head = 0;              // in its group
  std::int64_t score_row = 0;
};
__device__ Sample find_sample(const ScoreArgs& a, int flat, int kv_head) {
  Sample sample;
  const int block = flat / (a.samples * a.group), in_block = flat % (a.samples * a.group);
  sample.head = in_block / a.samples;
  const int i = in_block % a.samples, first = block * a.q_block, count = min(a.q_block, a.queries - first);
  if (flat >= a.flat_samples) return sample;
  if (a.stride > 0 ? i * a.stride >= count : i >= asked_count(count, a.query_stride)) return sample;
  sample.query = first + (a.stride > 0 ? i * a.stride : asked_query(i, a.query_stride, count));
  const int last = a.stride > 0 ? min(sample.query + a.stride, first + count) - 1 : sample.query;
  sample.row = a.query_rows != nullptr ? a.query_rows[last] : a.first_row + last;
  sample.score_row =
      (static_cast<std::int64_t>(kv_head * a.group + sample.head) * a.query_blocks + block) * a.samples + i;
  return sample;
}

// Shared memory: where a summary row is short, the samples, then stages of 128 whole rows; for antidiagonals
// stages of 64 columns of both.
constexpr int kMaxStages = 4, kTileBytes = 224 << 10, kChunkBytes = 64 * 128;  // of a warpgroup's samples
struct Stages {
  int resident_bytes, chunks, sample_bytes, bytes, count;
  __device__ __host__ explicit Stages(const ScoreArgs& a)
      : resident_bytes(a.stride > 0 ? 0 : kWarpgroups * a.chunks * kChunkBytes),
        chunks(a.stride > 0 ? 1 : a.chunks),
        sample_bytes(a.stride > 0 ? kWarpgroups * kChunkBytes : 0),
        bytes(sample_bytes + chunks * kColumns * 128) {
    const int fit = (kTileBytes - resident_bytes) / bytes;
    count = fit < kMaxStages ? fit : kMaxStages;
  }
};
// How many rows a part of a block stands for, and where its pool begins in the block.
struct Part {
  float weight;
  int first_row;
};
struct ScoreMemory {
  std::uint64_t full[kMaxStages], empty[kMaxStages];
  Part parts[kMaxParts];
};

// A warpgroup's 64 samples into shared memory, swizzled as the copy engine would.
__device__ void load_samples(const ScoreArgs& a, int first, int kv_head, std::uint8_t* to) {
  const int thread = static_cast<int>(threadIdx.x) % 128, row = thread / 2;
  const Sample sample = find_sample(a, first + row, kv_head);
  const __nv_bfloat16* from =
      a.q + sample.query * a.q_row_stride + (kv_head * a.group + sample.head) * a.head_dim;
#pragma unroll 4
  for (int piece = thread % 2; piece < a.chunks * 8; piece += 2) {
    uint4 value = {0, 0, 0, 0};
    if (sample.query >= 0 && piece * 8 < a.head_dim)
      value = *reinterpret_cast<const uint4*>(from + piece * 8);
    *reinterpret_cast<uint4*>(to + piece / 8 * 64 * 128 + row * 128 + (piece ^ row) % 8 * 16) = value;
  }
}

// The strided queries of a kv head as rows: row r of a stride meets query stride - 1 - r, what is missing is
// zero.
__global__ void pack_samples(const __grid_constant__ ScoreArgs a, __nv_bfloat16* packed) {
  const int flat = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const Sample sample = find_sample(a, flat, kv_head);
  const int end = min(a.queries, (sample.query / a.q_block + 1) * a.q_block);
  const __nv_bfloat16* from = a.q + (kv_head * a.group + sample.head) * a.head_dim;
  __nv_bfloat16* to = packed + (static_cast<std::int64_t>(kv_head) * a.flat_samples + flat) * a.chunks * 64;
  for (int piece = static_cast<int>(threadIdx.x); piece < a.chunks * 8;
       piece += static_cast<int>(blockDim.x)) {
    const int r = piece * 8 / a.head_dim, query = sample.query + a.stride - 1 - r;
    uint4 value = {0, 0, 0, 0};
    if (sample.query >= 0 && r < a.stride && query < end) {
      value = *reinterpret_cast<const uint4*>(from + query * a.q_row_stride + piece * 8 % a.head_dim);
    }
    *reinterpret_cast<uint4*>(to + piece * 8) = value;
  }
}

// Folds the columns of a thread's blocks; kept from one tile to the next where a block has more than 16
// parts.
template <int kSegment>
class Folder {
 public:
  __device__ Folder(const ScoreArgs& a, const Part* parts, int first_sample, int kv_head, int first_tile)
      : a_(a), parts_(parts) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) % 128 / 32;
    for (int r = 0; r < 2; ++r) {
      const Sample sample = find_sample(a, first_sample + warp * 16 + lane / 4 + 8 * r, kv_head);
      limits_[r] = sample.row;
      out_[r] = sample.row < 0 ? nullptr : a.scores + sample.score_row * a.score_stride + lane % 4 * 2;
    }
    part_ = first_tile * 16 % a.parts;
    block_ = first_tile * 16 / a.parts * 8;
    own_block_ = lane % 4 * 2;
  }

  // Blocks that begin behind `min_row` are not wholly seen by every sample.
  __device__ __forceinline__ void fold(const float (&s)[kColumns / 2], int min_row) {
#pragma unroll
    for (int segment = 0; segment < 16 / kSegment; ++segment) {
      if ((block_ + 8) * a_.k_block > min_row) {
        fold_segment<true>(s, segment);
      } else {
        fold_segment<false>(s, segment);
      }
      part_ += kSegment;
      if (part_ == a_.parts) store();
    }
  }

 private:
  __device__ __forceinline__ static float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }

  // How many rows of the part's pool the sample of sum i sees; not positive: none.
  __device__ __forceinline__ int seen(const Part& part, int i) const {
    return limits_[i / 2] + 1 - (block_ + own_block_ + i % 2) * a_.k_block - part.first_row;
  }

  // Four sums of kSegment terms: weight 2^(scale s), behind `min_row` times the share of its rows that is
  // seen.
  template <bool kMasked>
  __device__ __forceinline__ void fold_segment(const float (&s)[kColumns / 2], int segment) {
    float base[4], sum[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float highest = -INFINITY;
#pragma unroll
      for (int j = 0; j < kSegment; ++j) {
        const float x = s[4 * (segment * kSegment + j) + i];
        highest = fmaxf(highest, kMasked && seen(parts_[part_ + j], i) <= 0 ? -INFINITY : x);
      }
      const float before = part_ > 0 ? largest_[i] : -INFINITY;
      largest_[i] = fmaxf(highest * a_.scale_log2, before);
      base[i] = largest_[i] == -INFINITY ? 0 : largest_[i];
      sum[i] = part_ > 0 ? sum_[i] * power_of_2(before - base[i]) : 0;
    }
#pragma unroll
    for (int j = 0; j < kSegment; ++j) {
      const Part part = parts_[part_ + j];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float x = fmaf(s[4 * (segment * kSegment + j) + i], a_.scale_log2, -base[i]), weight = part.weight;
        if (kMasked) {
          x = fminf(x, 0.0f);  // what is not seen may be larger than the largest that is
          weight *= __saturatef(static_cast<float>(seen(part, i)) * a_.pool_share);
        }
        sum[i] = fmaf(power_of_2(x), weight, sum[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum_[i] = sum[i];
  }
  __device__ __forceinline__ void store() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (out_[r] == nullptr || block_ >= a_.score_stride) continue;
      const float2 value = {largest_[2 * r] + __log2f(sum_[2 * r]),
                            largest_[2 * r + 1] + __log2f(sum_[2 * r + 1])};
      *reinterpret_cast<float2*>(out_[r] + block_) = value;
    }
    part_ = 0;
    block_ += 8;
  }

  const ScoreArgs& a_;
  const Part* parts_;
  float* out_[2];
  int limits_[2], own_block_, part_, block_;
  float largest_[4], sum_[4];  // of (row, block) = (i / 2, i % 2)
};

template <int kSegment>
__global__ void __launch_bounds__(128 * (kWarpgroups + 1), 1)
    score_kernel(const __grid_constant__ ScoreArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ std::uint8_t memory[];
  std::uint8_t* tiles = memory + (1024 - shared_address(memory) % 1024) % 1024;
  const Stages stages(a);
  std::uint8_t* ring = tiles + stages.resident_bytes;
  auto& shared = *reinterpret_cast<ScoreMemory*>(tiles + kTileBytes);
  const int thread = static_cast<int>(threadIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const int first_sample = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kSamples;  // the longest first
  if (thread == 0) {
    for (int i = 0; i < stages.count; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], 4 * kWarpgroups);
    }
    barrier_init_fence();
  }
  for (int i = thread; i < a.parts; i += blockDim.x) {
    shared.parts[i] = {i < a.pools ? static_cast<float>(a.pool - a.outliers) : 1.0f, i % a.pools * a.pool};
  }
  __syncthreads();

  const auto row_of = [&](int query) {
    return a.query_rows != nullptr ? a.query_rows[query] : a.first_row + query;
  };
  const int in_block = a.samples * a.group;
  const int last_sample = min(first_sample + kSamples, a.flat_samples) - 1;
  const int min_row = row_of(first_sample / in_block * a.q_block);
  const int max_row = row_of(min((last_sample / in_block + 1) * a.q_block, a.queries) - 1);
  const int groups = max_row / (a.k_block * 8) + 1;
  const int begin = static_cast<int>(blockIdx.z) * a.tiles_per_split;
  const int end = min(begin + a.tiles_per_split, (groups * a.parts + 15) / 16);
  if (begin >= end) return;

  int stage = 0;
  std::uint32_t parity = 0;
  const auto advance = [&] {
    if (++stage == stages.count) {
      stage = 0;
      parity ^= 1;
    }
  };
  if (thread < 128) {
    fewer_registers<40>();
    if (thread < 32) {
      for (int tile = begin; tile < end; ++tile) {
        for (int chunk = 0; chunk < a.chunks; chunk += stages.chunks) {
          barrier_wait(&shared.empty[stage], parity ^ 1);
          if (thread == 0) barrier_arrive_expect(&shared.full[stage], stages.bytes);
          __syncwarp();
          std::uint8_t* to = ring + stage * stages.bytes;
          if (thread < stages.chunks) {
            load_box(to + stages.sample_bytes + thread * kColumns * 128, &a.summary, &shared.full[stage],
                     (chunk + thread) * 64, tile * kColumns, kv_head);
          }
          if (a.stride > 0 && thread < kWarpgroups) {
            load_box(to + thread * kChunkBytes, &a.packed, &shared.full[stage], chunk * 64,
                     first_sample + thread * 64, kv_head);
          }
          advance();
        }
      }
    }
  } else {
    more_registers<152>();
    const int wg = thread / 128 - 1;
    std::uint8_t* own = tiles + wg * a.chunks * kChunkBytes;
    if (a.stride == 0) load_samples(a, first_sample + wg * 64, kv_head, own);
    async_proxy_fence();
    named_sync(1 + wg, 128);
    Folder<kSegment> folder(a, shared.parts, first_sample + wg * 64, kv_head, begin);
    const auto release = [&](int used) {
      __syncwarp();
      if (thread % 32 == 0) barrier_arrive(&shared.empty[used]);
    };
    for (int tile = begin; tile < end; ++tile) {
      float s[kColumns / 2];
      int used = -1;  // the stage before
      for (int step = 0; step < a.chunks; step += stages.chunks) {
        barrier_wait(&shared.full[stage], parity);
        std::uint8_t* from = ring + stage * stages.bytes;
        const std::uint64_t q =
            tile_descriptor(shared_address(a.stride > 0 ? from + wg * kChunkBytes : own), 16);
        const std::uint64_t k = tile_descriptor(shared_address(from + stages.sample_bytes), 16);
        wgmma_fence();
        for (int chunk = 0; chunk < stages.chunks; ++chunk) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int inside = i * 32 >> 4;
            Wgmma<kColumns>::ss(s, q + (chunk * kChunkBytes >> 4) + inside,
                                k + (chunk * kColumns * 128 >> 4) + inside, step + chunk + i > 0);
          }
        }
        wgmma_commit();
        if (used >= 0) {
          wgmma_wait<1>();
          release(used);
        }
        used = stage;
        advance();
      }
      wgmma_wait<0>();
      release(used);
      folder.fold(s, min_row);
    }
  }
#endif
}

template <int kSegment>
void launch(const ScoreArgs& args, std::int64_t kv_heads, cudaStream_t stream) {
  constexpr int kBytes = 1024 + kTileBytes + sizeof(ScoreMemory);
  check_cuda(
      cudaFuncSetAttribute(score_kernel<kSegment>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      "shared memory for block scores");
  const dim3 grid(static_cast<unsigned>((args.flat_samples + kSamples - 1) / kSamples),
                  static_cast<unsigned>(kv_heads), static_cast<unsigned>(args.splits));
  score_kernel<kSegment><<<grid, 128 * (kWarpgroups + 1), kBytes, stream>>>(args);
  check_cuda(cudaGetLastError(), "block scores");
}

bool is_hopper() {
  int device = 0, major = 0;
  check_cuda(cudaGetDevice(&device), "device");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  return major == 9;
}

}  // namespace

bool scores_on_tensor_cores(const ScoreParams& p) {
  const BlockRule& rule = p.planning.rule;
  const bool pooled = rule.estimator == BlockEstimator::kPooled && !rule.variance;
  const bool exact = rule.estimator == BlockEstimator::kExact && rule.criterion == BlockCriterion::kMass;
  const bool strided = rule.estimator == BlockEstimator::kAntidiagonal;
  return p.planning.dtype == DType::kBF16 && (pooled || exact || strided) &&
         (strided || p.planning.head_dim <= 256) && p.planning.head_dim % 8 == 0 &&
         p.shape.parts <= kMaxParts && is_hopper();
}

std::int64_t packed_samples_bytes(const PlanningParams& plan, const ScoreShape& shape) {
  if (plan.rule.estimator != BlockEstimator::kAntidiagonal || plan.dtype != DType::kBF16) return 0;
  return plan.heads * shape.query_blocks * shape.samples * shape.row_elements * 2;
}

void score_blocks_hopper(const ScoreParams& p, cudaStream_t stream) {
  const PlanningParams& plan = p.planning;
  const bool exact = plan.rule.estimator == BlockEstimator::kExact;
  const bool strided = plan.rule.estimator == BlockEstimator::kAntidiagonal;
  ScoreArgs a{};
  a.summary = make_tensor_map({.data = p.summary,
                               .columns = p.shape.row_elements,
                               .rows = p.shape.summary_rows(),
                               .heads = plan.kv_heads,
                               .row_stride = p.shape.row_elements,
                               .head_stride = p.shape.summary_rows() * p.shape.row_elements},
                              kColumns);
  a.q = static_cast<const __nv_bfloat16*>(p.queries.q);
  a.q_row_stride = p.queries.q_row_stride;
  a.query_rows = p.queries.query_rows;
  a.scores = p.scores;
  a.score_stride = p.shape.stride();
  const auto narrow = [](std::int64_t n) { return static_cast<int>(n); };
  a.first_row = narrow(p.queries.first_row);
  a.queries = narrow(p.queries.queries);
  a.head_dim = narrow(plan.head_dim);
  a.group = narrow(plan.heads / plan.kv_heads);
  a.q_block = narrow(plan.rule.q_block);
  a.query_stride = exact ? 1 : narrow(plan.rule.query_stride);
  a.stride = strided ? narrow(plan.rule.stride) : 0;
  a.samples = narrow(p.shape.samples);
  a.query_blocks = narrow(p.shape.query_blocks);
  a.flat_samples = a.query_blocks * a.group * a.samples;
  a.k_block = narrow(plan.rule.k_block);
  a.pool = narrow(p.shape.pool);
  a.pools = narrow(p.shape.pools);
  a.parts = narrow(p.shape.parts);
  a.outliers = exact || strided ? 0 : narrow(plan.rule.outliers);
  a.scale_log2 = plan.scale * 1.44269504f / static_cast<float>(strided ? a.stride : 1);
  a.pool_share = strided ? 1e9f : 1.0f / static_cast<float>(a.pool);
  a.chunks = narrow(p.shape.row_elements / 64);
  if (strided) {
    a.packed = make_tensor_map({.data = p.packed,
                                .columns = p.shape.row_elements,
                                .rows = a.flat_samples,
                                .heads = plan.kv_heads,
                                .row_stride = p.shape.row_elements,
                                .head_stride = a.flat_samples * p.shape.row_elements},
                               64);
    const dim3 grid(static_cast<unsigned>(a.flat_samples), static_cast<unsigned>(plan.kv_heads));
    pack_samples<<<grid, 128, 0, stream>>>(a, static_cast<__nv_bfloat16*>(p.packed));
    check_cuda(cudaGetLastError(), "strided queries");
  }
  // Few samples (a short run of queries) are spread over the GPU by their columns; a split has whole groups.
  const int unit = a.parts / std::gcd(a.parts, 16), tiles = (narrow(p.shape.groups) * a.parts + 15) / 16;
  const int blocks = (a.flat_samples + kSamples - 1) / kSamples * narrow(plan.kv_heads);
  const int wanted = std::max(1, std::min(800 / std::max(blocks, 1), tiles / 16));
  a.tiles_per_split = ((tiles + wanted - 1) / wanted + unit - 1) / unit * unit;
  a.splits = (tiles + a.tiles_per_split - 1) / a.tiles_per_split;
  switch (std::gcd(a.parts, 16)) {
    case 16: return launch<16>(a, plan.kv_heads, stream);
    case 8: return launch<8>(a, plan.kv_heads, stream);
    case 4: return launch<4>(a, plan.kv_heads, stream);
    default: return launch<1>(a, plan.kv_heads, stream);
  }
}

}  // namespace winnow::cuda
