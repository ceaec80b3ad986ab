// What /metrics tells, in Prometheus' text format. Counted by several threads.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace winnow {

// Seconds, in buckets.
class TimeHistogram {
 public:
  void add_ms(double ms);
  // Lines of metric `name` with its help.
  std::string text(const std::string& name, const std::string& help) const;

 private:
  static constexpr std::array<double, 14> kBounds{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                  0.25,  0.5,    1,     2.5,  5,     10,   30};
  mutable std::mutex mutex_;
  std::array<std::int64_t, kBounds.size() + 1> counts_{};
  double sum_ = 0;
};

struct Metrics {
  std::atomic<std::int64_t> prompt_tokens{0}, kept_tokens{0}, cached_tokens{0}, generated_tokens{0};
  std::atomic<std::int64_t> prefill_passes{0};
  std::atomic<std::int64_t> cancelled{0}, rejected{0}, timed_out{0};
  // Now.
  std::atomic<std::int64_t> queued{0}, running{0}, prefix_bytes{0}, prefix_entries{0}, kv_bytes{0};
  TimeHistogram queue_time, prefill_time, first_token_time, decode_step_time, request_time;

  void count_request(const std::string& path, int status);
  std::string text() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::int64_t> requests_;  // by path and status
};

}  // namespace winnow
