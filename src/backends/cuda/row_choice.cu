// The choice of a stage's tokens by their scores, as max_pool() and select_tokens() make it
// (sparsity/token_pruner.h). The second kernel is one block of threads: what it does a pass of is short, and
// passes wait for each other.
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/mass_cut.cuh"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32, kPoolThreads = 256;
constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;

// NaN wins.
__global__ void __launch_bounds__(kPoolThreads) pool_kernel(RowChoiceArgs args) {
  const int i = static_cast<int>(blockIdx.x) * kPoolThreads + static_cast<int>(threadIdx.x);
  if (i >= args.tokens) return;
  const int reach = args.pool / 2, end = min(args.tokens, i + reach + 1);
  float highest = args.scores[max(0, i - reach)];
  for (int j = max(0, i - reach) + 1; j < end; ++j) {
    const float score = args.scores[j];
    if (!isnan(highest) && !(score <= highest)) highest = score;
  }
  args.pooled[i] = highest;
}

// Ordered as floats are.
__device__ std::uint32_t order_of(float x) {
  const std::uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

class Choice {
 public:
  __device__ Choice(const RowChoiceArgs& args, unsigned (&digits)[kDigits])
      : a_(args), digits_(digits), thread_(static_cast<int>(threadIdx.x)) {}

  __device__ void run() {
    summarise();
    find_cut();
    write_rows();
  }

 private:
  // Of all threads of the block; two places, so that one exchange may begin while the one before is read.
  __device__ int total(int count) {
    const int own = static_cast<int>(__reduce_add_sync(0xffffffffu, static_cast<unsigned>(count)));
    return static_cast<int>(__reduce_add_sync(0xffffffffu, exchange(own)));
  }
  // How many threads before this one say so; and how many in all.
  __device__ int before(bool says, int& all) {
    const std::uint32_t ballot = __ballot_sync(0xffffffffu, says);
    const int lane = thread_ % 32, warp = thread_ / 32;
    const unsigned count = exchange(__popc(ballot));
    all = static_cast<int>(__reduce_add_sync(0xffffffffu, count));
    return static_cast<int>(__reduce_add_sync(0xffffffffu, lane < warp ? count : 0u)) +
           __popc(ballot & ((1u << lane) - 1));
  }
  // Lane i gets what warp i gave.
  __device__ unsigned exchange(int of_warp) {
    __shared__ unsigned places[2][kWarps];
    side_ ^= 1;
    if (thread_ % 32 == 0) places[side_][thread_ / 32] = static_cast<unsigned>(of_warp);
    __syncthreads();
    return places[side_][thread_ % 32];
  }

  __device__ void summarise() {
    __shared__ float shared[33];
    float highest = -INFINITY, below = -INFINITY;  // below: of what is negated
    double sum = 0;
    int broken = 0;
    for (int i = thread_; i < a_.tokens; i += kThreads) {
      const float score = a_.pooled[i];
      if (!isfinite(score)) {
        ++broken;
        continue;
      }
      highest = fmaxf(highest, score);
      below = fmaxf(below, -score);
      sum += fabs(static_cast<double>(score));
    }
    highest = block_max(highest, shared);
    const float lowest = -block_max(below, shared);
    sum = block_sum<kThreads>(sum);
    broken = total(broken);
    const double high = highest, low = lowest, magnitude = fmax(fabs(high), fabs(low));
    degenerate_ = broken > 0 || magnitude == 0 || high - low < a_.equal_scores * magnitude;
    if (thread_ == 0) {
      const bool any = broken < a_.tokens;
      *a_.host_summary = {any ? low : 0, any ? high : 0, sum, degenerate_ ? 1 : 0};
    }
  }

  __device__ std::uint32_t key(int i) const { return degenerate_ ? 0 : order_of(a_.pooled[i]); }

  // The by_score-th highest key, eight bits at a time, and how many of those equal to it are chosen.
  __device__ void find_cut() {
    cut_ = 0xffffffffu;
    of_equal_ = 0;
    if (a_.by_score == 0) return;
    cut_ = 0;
    of_equal_ = a_.by_score;
    for (int shift = 24; shift >= 0 && !degenerate_; shift -= kDigitBits) {
      count_digits(shift);
      choose_digit(shift);
    }
  }

  // Of the keys that begin as the cut does, how many have each digit at `shift`.
  __device__ void count_digits(int shift) {
    for (int digit = thread_; digit < kDigits; digit += kThreads) digits_[digit] = 0;
    __syncthreads();
    const int lane = thread_ % 32;
    for (int first = a_.head + thread_ - lane; first < a_.tail; first += kThreads) {
      const std::uint64_t k = first + lane < a_.tail ? key(first + lane) : 0;
      const bool counts = first + lane < a_.tail && (k ^ cut_) >> shift < kDigits;
      const int digit = counts ? static_cast<int>((k >> shift) % kDigits) : kDigits;
      const unsigned alike = __match_any_sync(0xffffffffu, digit);
      if (counts && lane == __ffs(static_cast<int>(alike)) - 1) {
        atomicAdd(&digits_[digit], static_cast<unsigned>(__popc(alike)));
      }
    }
    __syncthreads();
  }

  // The highest digit that leaves at most of_equal_ keys above it, found by one warp; of_equal_ becomes the
  // number still wanted.
  __device__ void choose_digit(int shift) {
    __shared__ unsigned found[2];
    if (thread_ < 32) find_digit(found);
    __syncthreads();
    cut_ |= found[0] << shift;
    of_equal_ -= static_cast<int>(found[1]);
  }
  // That digit, and how many keys are above it.
  __device__ void find_digit(unsigned (&found)[2]) const {
    constexpr int kOwn = kDigits / 32;  // lane i: from the i-th highest kOwn on
    const int lane = thread_, highest = kDigits - 1 - lane * kOwn;
    const auto wanted = static_cast<unsigned>(of_equal_);
    unsigned own = 0;
    for (int i = 0; i < kOwn; ++i) own += digits_[highest - i];
    unsigned up_to = own;
    for (int step = 1; step < 32; step *= 2) {
      const unsigned other = __shfl_up_sync(0xffffffffu, up_to, step);
      if (lane >= step) up_to += other;
    }
    const int chooser = __ffs(static_cast<int>(__ballot_sync(0xffffffffu, up_to >= wanted))) - 1;
    if (lane != chooser) return;
    unsigned above = up_to - own;
    int digit = highest;
    while (above + digits_[digit] < wanted) above += digits_[digit--];
    found[0] = static_cast<unsigned>(digit);
    found[1] = above;
  }

  // From the last token backwards, for later ones come first among equals.
  __device__ void write_rows() {
    for (int i = thread_; i < a_.head; i += kThreads) write(i, i);
    const int chosen = a_.by_score + a_.by_recency;
    for (int i = a_.tail + thread_; i < a_.tokens; i += kThreads) {
      write(a_.head + chosen + i - a_.tail, i);
    }
    int equal = 0, others = 0, written = 0;  // so far
    for (int first = a_.tail - 1; first >= a_.head; first -= kThreads) {
      const int i = first - thread_;
      const bool there = i >= a_.head;
      const std::uint32_t k = there ? key(i) : 0;
      int all = 0;
      const bool ties = there && k == cut_;
      const int rank = equal + before(ties, all);
      equal += all;
      const bool scores = there && a_.by_score > 0 && (k > cut_ || (ties && rank < of_equal_));
      const int age = others + before(there && !scores, all);
      others += all;
      const bool stays = scores || (there && age < a_.by_recency);
      const int place = written + before(stays, all);
      written += all;
      if (stays) write(a_.head + chosen - 1 - place, i);
    }
  }
  __device__ void write(int place, int row) { a_.rows[place] = a_.host_rows[place] = a_.first_row + row; }

  const RowChoiceArgs& a_;
  unsigned (&digits_)[kDigits];  // shared by the block
  int thread_, side_ = 0;
  bool degenerate_ = false;
  std::uint32_t cut_ = 0;
  int of_equal_ = 0;
};

__global__ void __launch_bounds__(kThreads) choose_kernel(const __grid_constant__ RowChoiceArgs args) {
  __shared__ unsigned digits[kDigits];
  Choice(args, digits).run();
}

}  // namespace

void launch_choose_rows(const RowChoiceArgs& args, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((args.tokens + kPoolThreads - 1) / kPoolThreads);
  pool_kernel<<<blocks, kPoolThreads, 0, stream>>>(args);
  check_launch("pooled scores");
  choose_kernel<<<1, kThreads, 0, stream>>>(args);
  check_launch("a stage's choice");
}

}  // namespace winnow::cuda
