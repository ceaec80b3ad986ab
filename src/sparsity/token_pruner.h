// Token pruning at one stage: scores -> the tokens that go on.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "sparsity/policy.h"

namespace winnow {

// What happened at a stage; one line of the prune log.
struct StageRecord {
  std::string timestamp;  // UTC, ISO 8601 with milliseconds
  std::int64_t layer = 0, input_seq_len = 0, computed_keep_k = 0, tokens_kept = 0, tokens_pruned = 0;
  double pruning_ratio = 0;     // of this stage's input
  double cumulative_ratio = 0;  // tokens kept / prompt tokens
  double scores_min = 0, scores_max = 0, scores_abs_sum = 0;
  bool fallback_applied = false;
  double scoring_ms = 0;  // scoring and selection
};
nlohmann::json to_json(const StageRecord& record);

// keep_k = min(length, max(protected, floor(length * keep + 1e-9), 1)).
std::int64_t keep_count(std::int64_t length, double keep, const TokenPolicy& policy);
std::int64_t protected_count(std::int64_t length, const TokenPolicy& policy);

// Any non-finite score, all zero, or max - min < 1e-8 * max(|max|, |min|).
bool degenerate(std::span<const float> scores);

// Max over a window of `width` (odd) centred on each score; width 1 changes nothing.
void max_pool(std::span<float> scores, std::int64_t width);

// (1 - mix) * rank by score + mix * rank by position, ranks scaled to 0..1 (ties: later is higher).
void mix_recency(std::span<float> scores, double mix);

// Indices (ascending) that a stage keeps of scores.size() tokens, and the record (layer, counts, score statistics). Degenerate
// scores fall back to recency.
std::vector<std::int64_t> select_tokens(std::span<const float> scores, const Stage& stage, const TokenPolicy& policy,
                                        StageRecord& record);

}  // namespace winnow
