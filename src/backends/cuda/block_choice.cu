// From scores to a plan's bits: estimates, forced blocks and the choice by mass or maximum, a block of
// threads for each (head, query block). As add_forced() and Chooser of backends/block_choice.cc.
#include "backends/cuda/block_scores.h"
#include "backends/cuda/device.h"
#include "backends/cuda/mass_cut.cuh"
#include "backends/cuda/numeric.cuh"
#include "core/check.h"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct ChoiceArgs {
  BlockRule rule;
  ScoreShape shape;
  const float* scores;
  bool estimated, whole;  // scores exist; they are logarithms of probabilities already
  const float* thresholds;
  const std::int32_t* query_rows;
  int first_row, queries, words, kv_rows, dense_from_row;
  const std::uint32_t* column_blocks;  // kVerticalSlash, else null
  const std::int32_t* diagonals_below;
  std::uint32_t* listed;
};

// A block of threads for each (head, query block): vertical_slash, no estimates at all, or more key blocks
// than a warp holds.
class Choice {
 public:
  __device__ Choice(const ChoiceArgs& args, float* estimates)
      : a_(args),
        thread_(static_cast<int>(threadIdx.x)),
        head_(static_cast<int>(blockIdx.y)),
        block_(static_cast<int>(blockIdx.x)),
        estimates_(estimates),
        sums_(estimates + args.shape.stride()),
        bits_(reinterpret_cast<std::uint32_t*>(sums_ + args.shape.samples)) {
    const auto q_block = static_cast<int>(args.rule.q_block);
    first_ = block_ * q_block;
    count_ = min(q_block, args.queries - first_);
    first_row_ = row_of(0);
    last_row_ = row_of(count_ - 1);
    blocks_ = last_row_ / static_cast<int>(args.rule.k_block) + 1;
  }

  __device__ void run() {
    for (int i = thread_; i < a_.words; i += kThreads) bits_[i] = 0;
    __syncthreads();
    add_forced();
    __syncthreads();
    if (a_.estimated) {
      estimate();
      const Cut cut = find_own_cut(a_.thresholds[head_]);
      __syncthreads();
      for (int j = thread_; j < blocks_; j += kThreads) {
        if (cut.takes(estimates_[j], j)) insert(j);
      }
    }
    if (a_.column_blocks != nullptr) add_stripes();
    __syncthreads();
    std::uint32_t* out =
        a_.listed + (static_cast<std::int64_t>(head_) * a_.shape.query_blocks + block_) * a_.words;
    for (int i = thread_; i < a_.words; i += kThreads) out[i] = bits_[i];
  }

 private:
  __device__ int row_of(int i) const {
    return a_.query_rows != nullptr ? a_.query_rows[first_ + i] : a_.first_row + first_ + i;
  }
  __device__ bool consecutive() const { return last_row_ - first_row_ == count_ - 1; }
  __device__ bool has(int j) const { return (bits_[j / 32] >> (j % 32) & 1) != 0; }
  __device__ void insert(int j) { atomicOr(&bits_[j / 32], 1u << (j % 32)); }
  __device__ void insert_range(int begin, int end) {  // by all threads
    for (int j = begin + thread_; j < end; j += kThreads) insert(j);
  }

  __device__ void add_forced() {
    const auto k_block = static_cast<int>(a_.rule.k_block);
    if (a_.dense_from_row >= 0 && last_row_ >= a_.dense_from_row) return insert_range(0, blocks_);
    insert_range(0, static_cast<int>(min(static_cast<std::int64_t>(blocks_),
                                         (a_.rule.sink_tokens + k_block - 1) / k_block)));
    const auto local = static_cast<int>(min(a_.rule.local_tokens, std::int64_t{1} << 30));
    if (consecutive()) return insert_range(max(0, first_row_ - local) / k_block, blocks_);
    for (int i = thread_; i < count_; i += kThreads) {
      const int row = row_of(i);
      for (int j = max(0, row - local) / k_block; j <= row / k_block; ++j) insert(j);
    }
  }

  // Probabilities of the samples, added up or the largest of them, for each causal block.
  __device__ void estimate() {
    const auto samples = static_cast<int>(a_.rule.estimator == BlockEstimator::kAntidiagonal
                                              ? (count_ + a_.rule.stride - 1) / a_.rule.stride
                                              : asked_count(count_, asks_every()));
    const float* scores = a_.scores + (static_cast<std::int64_t>(head_) * a_.shape.query_blocks + block_) *
                                          a_.shape.samples * a_.shape.stride();
    add_up(scores, samples);
    __syncthreads();
  }

  __device__ float merge(float a, float b) const {
    return a_.rule.criterion == BlockCriterion::kMass ? a + b : fmaxf(a, b);
  }

  // In two readings: what a sample's scores add up to, then a block's probabilities.
  __device__ void add_up(const float* scores, int samples) {
    const std::int64_t stride = a_.shape.stride();
    for (int i = thread_ / 32; i < samples; i += kWarps) {
      float largest = -INFINITY, sum = 0;
      for (int j = thread_ % 32; j < blocks_; j += 32) largest = fmaxf(largest, scores[i * stride + j]);
      largest = warp_max(largest);
      for (int j = thread_ % 32; j < blocks_; j += 32) sum += exp2f(scores[i * stride + j] - largest);
      sum = warp_sum(sum);
      if (thread_ % 32 == 0) sums_[i] = a_.whole ? 0.0f : largest + log2f(sum);
    }
    __syncthreads();
    for (int j = thread_; j < blocks_; j += kThreads) {
      float estimate = 0;
      for (int i = 0; i < samples; ++i) estimate = merge(estimate, exp2f(scores[i * stride + j] - sums_[i]));
      estimates_[j] = estimate;
    }
  }
  __device__ std::int64_t asks_every() const {
    return a_.rule.estimator == BlockEstimator::kPooled ? a_.rule.query_stride : 1;
  }

  __device__ Cut find_own_cut(float threshold) {
    if (a_.rule.criterion == BlockCriterion::kMaximum) return {threshold, 0};
    double total = 0, taken = 0;
    for (int j = thread_; j < blocks_; j += kThreads) {
      total += static_cast<double>(estimates_[j]);
      if (!has(j)) continue;
      taken += static_cast<double>(estimates_[j]);
      estimates_[j] = -1;  // does not stand for election
    }
    total = block_sum<kThreads>(total);
    taken = block_sum<kThreads>(taken);
    const auto get = [this](int j) { return estimates_[j]; };
    return cut_mass<kThreads>(get, blocks_, total, taken, threshold);
  }

  __device__ int below(const std::int32_t* diagonals, int distance) const {
    return diagonals[min(max(distance, 0), a_.kv_rows)];
  }
  __device__ void add_stripes() {
    const auto k_block = static_cast<int>(a_.rule.k_block);
    const std::uint32_t* columns = a_.column_blocks + static_cast<std::int64_t>(head_) * a_.words;
    const std::int32_t* diagonals = a_.diagonals_below + static_cast<std::int64_t>(head_) * (a_.kv_rows + 1);
    const bool run = consecutive();
    for (int j = thread_; j < blocks_; j += kThreads) {
      bool meets = (columns[j / 32] >> (j % 32) & 1) != 0;
      for (int i = 0; i < (run ? 1 : count_) && !meets; ++i) {
        const int first = row_of(i), last = run ? last_row_ : first;
        meets = below(diagonals, last - j * k_block + 1) > below(diagonals, first - (j + 1) * k_block + 1);
      }
      if (meets) insert(j);
    }
  }

  const ChoiceArgs& a_;
  int thread_, head_, block_, first_, count_, first_row_, last_row_, blocks_;
  float* estimates_;
  float* sums_;  // [samples] log2 of what a sample's scores add up to
  std::uint32_t* bits_;
};

__global__ void __launch_bounds__(kThreads) choose(const __grid_constant__ ChoiceArgs args) {
  extern __shared__ float memory[];
  Choice(args, memory).run();
}

// A warp for each (head, query block) that has estimates: lane i holds blocks i, i + 32, ..., kOwn of them,
// so a ballot is a word of the plan, and nothing is shared.
template <int kOwn>
class WarpChoice {
 public:
  __device__ WarpChoice(const ChoiceArgs& args, int index)
      : a_(args), lane_(static_cast<int>(threadIdx.x) % 32) {
    const auto q_block = static_cast<int>(args.rule.q_block),
               query_blocks = static_cast<int>(args.shape.query_blocks);
    head_ = index / query_blocks;
    block_ = index % query_blocks;
    first_ = block_ * q_block;
    count_ = min(q_block, args.queries - first_);
    first_row_ = row_of(0);
    last_row_ = row_of(count_ - 1);
    blocks_ = last_row_ / static_cast<int>(args.rule.k_block) + 1;
  }

  __device__ void run() {
    find_forced();
    add_up();
    const Cut cut = find_own_cut(a_.thresholds[head_]);
    std::uint32_t* out =
        a_.listed + (static_cast<std::int64_t>(head_) * a_.shape.query_blocks + block_) * a_.words;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int j = lane_ + 32 * k;
      const bool listed = (forced_ >> k & 1) != 0 || (j < blocks_ && cut.takes(estimates_[k], j));
      const std::uint32_t word = __ballot_sync(kWholeWarp, listed);
      if (lane_ == 0 && k < a_.words) out[k] = word;
    }
  }

 private:
  static constexpr unsigned kWholeWarp = 0xffffffffu;

  __device__ int row_of(int i) const {
    return a_.query_rows != nullptr ? a_.query_rows[first_ + i] : a_.first_row + first_ + i;
  }
  __device__ void force(int begin, int end) {
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int j = lane_ + 32 * k;
      forced_ |= static_cast<std::uint32_t>(j >= begin && j < end) << k;
    }
  }
  __device__ void find_forced() {
    const auto k_block = static_cast<int>(a_.rule.k_block);
    if (a_.dense_from_row >= 0 && last_row_ >= a_.dense_from_row) return force(0, blocks_);
    const std::int64_t sinks = (a_.rule.sink_tokens + k_block - 1) / k_block;
    force(0, static_cast<int>(min(static_cast<std::int64_t>(blocks_), sinks)));
    const auto local = static_cast<int>(min(a_.rule.local_tokens, std::int64_t{1} << 30));
    const bool consecutive = last_row_ - first_row_ == count_ - 1;
    if (consecutive) return force(max(0, first_row_ - local) / k_block, blocks_);
    for (int i = 0; i < count_; ++i) force(max(0, row_of(i) - local) / k_block, row_of(i) / k_block + 1);
  }

  __device__ void add_up() {
    const bool strided = a_.rule.estimator == BlockEstimator::kAntidiagonal;
    const bool mass = a_.rule.criterion == BlockCriterion::kMass;
    const std::int64_t every = a_.rule.estimator == BlockEstimator::kPooled ? a_.rule.query_stride : 1;
    const auto stride = static_cast<int>(a_.shape.stride());
    const auto samples = static_cast<int>(strided ? (count_ + a_.rule.stride - 1) / a_.rule.stride
                                                  : asked_count(count_, every));
    const std::int64_t row = static_cast<std::int64_t>(head_) * a_.shape.query_blocks + block_;
    const float* scores = a_.scores + row * a_.shape.samples * stride + lane_;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) estimates_[k] = 0;
#pragma unroll 2
    for (int i = 0; i < samples; ++i, scores += stride) {
      float x[kOwn], largest = -INFINITY, sum = 0;
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        x[k] = lane_ + 32 * k < blocks_ ? scores[32 * k] : -INFINITY;
        largest = fmaxf(largest, x[k]);
      }
      largest = a_.whole ? 0 : warp_max(largest);
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        x[k] = power_of_2(x[k] - largest);
        sum += x[k];
      }
      const float share = a_.whole ? 1 : __fdividef(1.0f, warp_sum(sum));
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        estimates_[k] = mass ? fmaf(x[k], share, estimates_[k]) : fmaxf(estimates_[k], x[k] * share);
      }
    }
  }
  __device__ __forceinline__ static float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }

  __device__ Cut find_own_cut(float threshold) {
    if (a_.rule.criterion == BlockCriterion::kMaximum) return {threshold, 0};
    if (threshold >= 1) return {__uint_as_float(1), 0};  // all that are not 0
    float total = 0, taken = 0;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const bool forced = (forced_ >> k & 1) != 0;
      total += estimates_[k];
      taken += forced ? estimates_[k] : 0;
      if (forced) estimates_[k] = -1;  // does not stand for election
    }
    const float wanted = threshold * warp_sum(total) - warp_sum(taken);
    if (wanted <= 0) return {};
    // The largest float from which on the estimates suffice; as bits, floats that are not negative are
    // ordered.
    std::uint32_t low = 1, high = 0x7f800000u;
    while (high - low > 1) {
      const std::uint32_t middle = low + (high - low) / 2;
      (mass_from(__uint_as_float(middle)) >= wanted ? low : high) = middle;
    }
    return {__uint_as_float(low), first_equal(__uint_as_float(low), wanted)};
  }
  __device__ float mass_from(float lowest) const {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) sum += estimates_[k] >= lowest ? estimates_[k] : 0;
    return warp_sum(sum);
  }
  // Of estimates equal to the lowest that is needed the later ones go first.
  __device__ int first_equal(float lowest, float wanted) const {
    float above = 0;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) above += estimates_[k] > lowest ? estimates_[k] : 0;
    float missing = wanted - warp_sum(above);
    int first = 0x7fffffff;
#pragma unroll
    for (int k = kOwn - 1; k >= 0; --k) {
      for (unsigned equal = __ballot_sync(kWholeWarp, estimates_[k] == lowest); equal != 0 && missing > 0;) {
        const int lane = 31 - __clz(static_cast<int>(equal));
        equal ^= 1u << lane;
        missing -= lowest;
        first = 32 * k + lane;
      }
    }
    return first;
  }

  const ChoiceArgs& a_;
  int lane_, head_, block_, first_, count_, first_row_, last_row_, blocks_;
  std::uint32_t forced_ = 0;  // bit k: block lane + 32 k
  float estimates_[kOwn];
};

constexpr int kChoiceWarps = 4;

template <int kOwn>
__global__ void __launch_bounds__(kChoiceWarps * 32)
    choose_by_warps(const __grid_constant__ ChoiceArgs args, int count) {
  const auto index = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  if (index < count) WarpChoice<kOwn>(args, index).run();
}

__global__ void unite(const std::uint32_t* from, std::uint32_t* to, std::int64_t row_words, int group) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, head = blockIdx.y;
  if (i >= row_words) return;
  std::uint32_t bits = 0;
  for (int g = 0; g < group; ++g) bits |= from[(head * group + g) * row_words + i];
  to[head * row_words + i] = bits;
}

// A warp for each row of the plan.
__global__ void add_pairs(BlockRule rule, PlanningQueries q, std::int64_t words, std::int64_t query_blocks,
                          std::int64_t plan_rows, const std::uint32_t* listed, unsigned long long* pairs) {
  const std::int64_t index = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (index >= plan_rows) return;
  const std::int64_t first = index % query_blocks * rule.q_block,
                     count = min(rule.q_block, q.queries - first);
  const auto row_of = [&](std::int64_t i) {
    return q.query_rows != nullptr ? q.query_rows[i] : q.first_row + i;
  };
  const std::int64_t first_row = row_of(first);
  unsigned long long sum = 0;
  for (std::int64_t word = threadIdx.x % 32; word < words; word += 32) {
    for (std::uint32_t bits = listed[index * words + word]; bits != 0; bits &= bits - 1) {
      const std::int64_t begin = (word * 32 + __ffs(static_cast<int>(bits)) - 1) * rule.k_block;
      if (begin + rule.k_block <= first_row + 1) {
        sum += static_cast<unsigned long long>(count * rule.k_block);
        continue;
      }
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t seen = row_of(first + i) + 1 - begin;
        sum += static_cast<unsigned long long>(max(std::int64_t{0}, min(seen, rule.k_block)));
      }
    }
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0 && sum > 0) atomicAdd(pairs, sum);
}

std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

}  // namespace

bool has_estimates(const BlockRule& rule) {
  return rule.estimator != BlockEstimator::kNone && rule.estimator != BlockEstimator::kVerticalSlash;
}

ScoreShape score_shape(const PlanningParams& p, std::int64_t queries) {
  const BlockRule& rule = p.rule;
  ScoreShape shape;
  std::int64_t elements = p.head_dim;
  shape.samples = rule.q_block;
  switch (rule.estimator) {
    case BlockEstimator::kNone:
    case BlockEstimator::kVerticalSlash: shape.samples = 0; break;
    case BlockEstimator::kExact: break;
    case BlockEstimator::kPooled:
      shape.pool = rule.pool;
      shape.samples = rule.q_block <= 1 ? rule.q_block : (rule.q_block - 2) / rule.query_stride + 2;
      break;
    case BlockEstimator::kAntidiagonal:
      shape.pool = rule.stride;
      shape.samples = rule.q_block / rule.stride;
      elements *= rule.stride;
      break;
  }
  shape.pools = rule.k_block / shape.pool;
  shape.parts = shape.pools * (rule.estimator == BlockEstimator::kPooled ? 1 + rule.outliers : 1);
  shape.key_blocks = block_count(p.kv_rows, rule.k_block);
  shape.groups = block_count(shape.key_blocks, kBlockGroup);
  shape.row_elements = round_up(elements, 64);
  shape.query_blocks = block_count(queries, rule.q_block);
  return shape;
}

std::int64_t summary_bytes(const PlanningParams& p) {
  if (p.rule.estimator == BlockEstimator::kVerticalSlash) return stripe_bytes(p);
  if (!has_estimates(p.rule)) return 0;
  const ScoreShape shape = score_shape(p, 1);
  const bool variance = p.rule.estimator == BlockEstimator::kPooled && p.rule.variance;
  return dtype_bytes(p.dtype, p.kv_heads * shape.summary_rows() * shape.row_elements) * (variance ? 2 : 1);
}

namespace {

std::int64_t score_bytes(const PlanningParams& p, const ScoreShape& shape) {
  if (!has_estimates(p.rule)) return 0;
  return round_up(p.heads * shape.query_blocks * shape.samples * shape.stride() * 4, 256);
}

}  // namespace

std::int64_t planning_workspace(const PlanningParams& p, std::int64_t queries) {
  const ScoreShape shape = score_shape(p, queries);
  const std::int64_t union_bytes =
      p.rule.group_union ? p.heads * shape.query_blocks * plan_words(p.kv_rows, p.rule.k_block) * 4 : 0;
  return score_bytes(p, shape) + round_up(packed_samples_bytes(p, shape), 256) + union_bytes + 256;
}

void list_blocks(const PlanningParams& p, const void* summary, const PlanningQueries& queries,
                 std::uint32_t* listed, void* workspace, cudaStream_t stream) {
  check(p.kv_heads > 0 && p.heads % p.kv_heads == 0 && p.rule.q_block > 0 && p.rule.k_block > 0,
        "planning: heads and blocks");
  check(queries.queries >= 0 && queries.queries <= p.kv_rows, "planning: queries sit in the cache");
  if (queries.queries == 0) return;
  const ScoreShape shape = score_shape(p, queries.queries);
  const std::int64_t words = plan_words(p.kv_rows, p.rule.k_block);
  auto* scores = static_cast<float*>(workspace);
  char* packed = static_cast<char*>(workspace) + score_bytes(p, shape);
  auto* by_head = reinterpret_cast<std::uint32_t*>(packed + round_up(packed_samples_bytes(p, shape), 256));
  if (has_estimates(p.rule)) {
    const ScoreParams params{.planning = p,
                             .shape = shape,
                             .queries = queries,
                             .summary = summary,
                             .scores = scores,
                             .packed = packed};
    scores_on_tensor_cores(params) ? score_blocks_hopper(params, stream) : score_blocks_plain(params, stream);
  }
  ChoiceArgs args{
      .rule = p.rule,
      .shape = shape,
      .scores = scores,
      .estimated = has_estimates(p.rule),
      .whole = p.rule.estimator == BlockEstimator::kExact && p.rule.criterion == BlockCriterion::kMaximum,
      .thresholds = p.thresholds,
      .query_rows = queries.query_rows,
      .first_row = static_cast<int>(queries.first_row),
      .queries = static_cast<int>(queries.queries),
      .words = static_cast<int>(words),
      .kv_rows = static_cast<int>(p.kv_rows),
      .dense_from_row = static_cast<int>(p.dense_from_row),
      .column_blocks = nullptr,
      .diagonals_below = nullptr,
      .listed = p.rule.group_union ? by_head : listed};
  if (p.rule.estimator == BlockEstimator::kVerticalSlash) {
    const Stripes stripes = stripes_of(p, const_cast<void*>(summary));
    args.column_blocks = stripes.column_blocks;
    args.diagonals_below = stripes.diagonals_below;
  }
  const auto bytes = static_cast<unsigned>((shape.stride() + shape.samples + words) * 4);
  const std::int64_t rows = p.heads * shape.query_blocks;
  const auto warp_grid = static_cast<unsigned>((rows + kChoiceWarps - 1) / kChoiceWarps);
  if (args.estimated && shape.key_blocks <= 32 * 8) {
    choose_by_warps<8><<<warp_grid, kChoiceWarps * 32, 0, stream>>>(args, static_cast<int>(rows));
  } else if (args.estimated && shape.key_blocks <= 32 * 32) {
    choose_by_warps<32><<<warp_grid, kChoiceWarps * 32, 0, stream>>>(args, static_cast<int>(rows));
  } else {
    check_cuda(cudaFuncSetAttribute(choose, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10),
               "block choice");
    const dim3 grid(static_cast<unsigned>(shape.query_blocks), static_cast<unsigned>(p.heads));
    choose<<<grid, kThreads, bytes, stream>>>(args);
  }
  check_cuda(cudaGetLastError(), "block choice");
  if (!p.rule.group_union) return;
  const std::int64_t row_words = shape.query_blocks * words;
  const dim3 union_grid(static_cast<unsigned>((row_words + 255) / 256), static_cast<unsigned>(p.kv_heads));
  unite<<<union_grid, 256, 0, stream>>>(by_head, listed, row_words, static_cast<int>(p.heads / p.kv_heads));
  check_cuda(cudaGetLastError(), "union of plans");
}

void count_pairs(const PlanningParams& p, const PlanningQueries& queries, std::int64_t plan_heads,
                 const std::uint32_t* listed, unsigned long long* pairs, cudaStream_t stream) {
  if (queries.queries == 0) return;
  const std::int64_t query_blocks = block_count(queries.queries, p.rule.q_block),
                     rows = plan_heads * query_blocks;
  add_pairs<<<static_cast<unsigned>((rows + 7) / 8), 256, 0, stream>>>(
      p.rule, queries, plan_words(p.kv_rows, p.rule.k_block), query_blocks, rows, listed, pairs);
  check_cuda(cudaGetLastError(), "pairs of a plan");
}

}  // namespace winnow::cuda
