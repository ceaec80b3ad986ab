// The English datasets of LongBench: how each is asked and scored. For longbench.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace winnow {

enum class LongBenchMetric : std::uint8_t { kF1, kRougeL, kClass, kRetrieval, kCount, kCode };

struct LongBenchDataset {
  std::string_view name;
  std::string_view prompt;  // with {context} and {input}
  std::int64_t answer_tokens;
  LongBenchMetric metric;
  bool chat;        // asked through the chat template
  bool first_line;  // only the first line of the answer counts
};

std::span<const LongBenchDataset> longbench_datasets();

}  // namespace winnow
