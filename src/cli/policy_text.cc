#include "cli/policy_text.h"

#include <fmt/format.h>

#include "cli/table.h"
#include "sparsity/token_pruner.h"

namespace winnow::cli {

std::vector<std::int64_t> example_lengths(std::int64_t context) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t length = 1024; length < context && length <= 65536; length *= 4)
    lengths.push_back(length);
  lengths.push_back(context);
  return lengths;
}

std::vector<std::int64_t> kept_by_stage(const Policy& policy, std::int64_t length) {
  std::vector<std::int64_t> kept;
  for (const Stage& stage : policy.tokens.stages) {
    if (!stage.top_p) length = keep_count(length, stage.keep, policy.tokens);
    kept.push_back(length);
  }
  return kept;
}

std::string stage_table(const Policy& policy, const std::vector<std::int64_t>& lengths) {
  std::vector<std::string> header{"before layer", "keeps"};
  std::vector<std::vector<std::int64_t>> kept;  // [length][stage]
  for (const std::int64_t length : lengths) {
    header.push_back(fmt::format("of {}", length));
    kept.push_back(kept_by_stage(policy, length));
  }
  Table table(header);
  for (std::size_t i = 0; i < policy.tokens.stages.size(); ++i) {
    const Stage& stage = policy.tokens.stages[i];
    std::vector<std::string> row{fmt::format("{}", stage.layer), stage.top_p
                                                                     ? fmt::format("top_p {}", *stage.top_p)
                                                                     : fmt::format("{}", stage.keep)};
    for (const auto& column : kept) row.push_back(fmt::format("{}{}", stage.top_p ? "<= " : "", column[i]));
    table.add_row(row);
  }
  return table.to_string();
}

std::string attention_text(const AttentionPolicy& policy) {
  if (policy.dense()) return "attention: dense, computed in full\n";
  const BlockRule& rule = policy.rule;
  std::string threshold;
  if (policy.selector != SelectorKind::kLocal) {
    threshold = policy.one_threshold() ? fmt::format(", threshold {}", policy.thresholds[0][0])
                                       : fmt::format(", thresholds of {} layers", policy.thresholds.size());
  }
  return fmt::format(
      "attention: {}{}, blocks of {} queries x {} keys, first {} and last {} tokens always, last {} queries "
      "see "
      "everything\n",
      selector_name(policy.selector), threshold, rule.q_block, rule.k_block, rule.sink_tokens,
      rule.local_tokens, policy.dense_last_tokens);
}

}  // namespace winnow::cli
