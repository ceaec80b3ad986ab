// Token pruning at one stage: scores -> the tokens that go on.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "backends/row_choice.h"
#include "sparsity/policy.h"

namespace winnow {

// What happened at a stage; one line of the prune log.
struct StageRecord {
  std::string timestamp;  // UTC, ISO 8601 with milliseconds
  std::int64_t layer = 0, input_seq_len = 0, computed_keep_k = 0, tokens_kept = 0, tokens_pruned = 0;
  double pruning_ratio = 0;                                   // of this stage's input
  double cumulative_ratio = 0;                                // tokens kept / prompt tokens
  double scores_min = 0, scores_max = 0, scores_abs_sum = 0;  // over the finite scores; 0 when there is none
  bool fallback_applied = false;                              // recency chose because the scores could not
  double scoring_ms = 0;                                      // scoring and selection
};
nlohmann::json to_json(const StageRecord& record);

// keep_k = min(length, max(protected, floor(length * keep + 1e-9), 1)).
std::int64_t keep_count(std::int64_t length, double keep, const TokenPolicy& policy);
// First and last tokens that always stay, at most `length`.
std::int64_t protected_count(std::int64_t length, const TokenPolicy& policy);

// The protected tokens: [0, head) and [tail, length).
struct ProtectedEnds {
  std::int64_t head, tail;
};
ProtectedEnds protected_ends(std::int64_t length, const TokenPolicy& policy);

// What a stage that keeps a share of `length` tokens takes, whatever their scores are.
struct StageCounts {
  ProtectedEnds ends;
  std::int64_t kept = 0;                      // the protected ones included
  std::int64_t by_score = 0, by_recency = 0;  // of the others
};
StageCounts stage_counts(std::int64_t length, const Stage& stage, const TokenPolicy& policy);

// Any non-finite score, all zero, or max - min < 1e-8 * max(|max|, |min|).
bool degenerate(std::span<const float> scores);

// Max over a window of `width` (odd) centred on each score; width 1 changes nothing. NaN wins, so that
// degenerate() still sees it.
void max_pool(std::span<float> scores, std::int64_t width);

// (1 - mix) * rank by score + mix * rank by position, ranks scaled to 0..1 (ties: later is higher). Mix 0
// changes nothing, and degenerate scores stay as they are: their ranks would look like scores, and the
// fallback would go unseen.
void mix_recency(std::span<float> scores, double mix);

// Indices (ascending) that a stage keeps of scores.size() >= 1 tokens, and the record but for
// cumulative_ratio and scoring_ms. Protected tokens and those of the highest scores stay; of equal scores the
// later wins. With a quota below 1, only that share of the unprotected tokens that stay (rounded down) goes
// by score; the others are the latest that are left. Degenerate scores fall back to recency.
//
// A top_p stage keeps the smallest such set whose scores hold top_p of the sum over all current tokens;
// negative scores count as 0. Without any positive score it falls back too, and every token weighs the same.
// fallback_applied is set only where something was dropped.
std::vector<std::int64_t> select_tokens(std::span<const float> scores, const Stage& stage,
                                        const TokenPolicy& policy, StageRecord& record);
// The record of a choice that a backend made of `length` tokens.
StageRecord record_choice(const ChosenRows& chosen, std::int64_t length, const Stage& stage);

}  // namespace winnow
