#include "backends/cuda/cuda_row_choice.h"

#include <cstring>
#include <utility>

#include "backends/cuda/device_buffer.h"
#include "core/check.h"

namespace winnow::cuda {
namespace {

constexpr std::int64_t kRowsAt = 256;  // behind the summary

}  // namespace

CudaRowChoice::CudaRowChoice(const RowChoiceParams& p, const float* scores, Device& device)
    : first_row_(p.scoring.kv->rows - p.tokens),
      count_(p.head + p.by_score + p.by_recency + p.tokens - p.tail) {
  check(p.tokens >= 1 && p.head >= 0 && p.head <= p.tail && p.tail <= p.tokens &&
            p.by_score + p.by_recency <= p.tail - p.head && p.pool % 2 == 1,
        "choose_rows: so many tokens are there");
  const std::int64_t pooled_at = (count_ * 4 + 255) / 256 * 256;
  memory_ = allocate_buffer(device, pooled_at + p.tokens * 4);
  landing_ = device.landing(kRowsAt + count_ * 4);
  const auto number = [](std::int64_t n) { return static_cast<int>(n); };
  launch_choose_rows({.scores = scores,
                      .pooled = reinterpret_cast<float*>(memory_.as<std::byte>() + pooled_at),
                      .rows = memory_.as<std::int32_t>(),
                      .host_rows = reinterpret_cast<std::int32_t*>(landing_ + kRowsAt),
                      .host_summary = reinterpret_cast<ScoreSummary*>(landing_),
                      .first_row = number(first_row_),
                      .tokens = number(p.tokens),
                      .pool = number(p.pool),
                      .head = number(p.head),
                      .tail = number(p.tail),
                      .by_score = number(p.by_score),
                      .by_recency = number(p.by_recency),
                      .equal_scores = kEqualScores},
                     device.stream());
  check_cuda(cudaEventCreateWithFlags(&landed_, cudaEventDisableTiming), "an event");
  check_cuda(cudaEventRecord(landed_, device.stream()), "an event");
}

CudaRowChoice::~CudaRowChoice() { cudaEventDestroy(landed_); }

std::vector<std::int64_t> CudaRowChoice::cache_rows() const {
  check_cuda(cudaEventSynchronize(landed_), "a stage's choice");
  const auto* landed = reinterpret_cast<const std::int32_t*>(landing_ + kRowsAt);
  return {landed, landed + count_};
}

ChosenRows CudaRowChoice::wait() {
  std::vector<std::int64_t> rows = cache_rows();
  for (std::int64_t& row : rows) row -= first_row_;
  ScoreSummary summary{};
  std::memcpy(&summary, landing_, sizeof(summary));
  return {.rows = std::move(rows),
          .degenerate = summary.degenerate != 0,
          .lowest = summary.lowest,
          .highest = summary.highest,
          .abs_sum = summary.abs_sum};
}

}  // namespace winnow::cuda
