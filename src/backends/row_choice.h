// RowChoice: a stage's choice of tokens made by a backend, where scores and rows are.
//
// The same as window_scores(), max_pool() and select_tokens() (sparsity/token_pruner.h) one after the other,
// for stages whose number of kept tokens is known beforehand; so ops on the kept rows can follow before the
// host knows which these are.
#pragma once

#include <cstdint>
#include <vector>

#include "backends/backend.h"

namespace winnow {

// Scores that differ by less than this share of their magnitude say nothing.
constexpr double kEqualScores = 1e-8;

struct RowChoiceParams {
  WindowScoresParams scoring;       // `scores` stays empty, and per_head false
  std::int64_t tokens = 0;          // that are chosen from: the cache's last rows
  std::int64_t pool = 1;            // odd: a score becomes the largest of so many around it
  std::int64_t head = 0, tail = 0;  // tokens [0, head) and [tail, tokens) stay
  std::int64_t by_score = 0;        // so many others with the highest scores, of equal ones the later
  std::int64_t by_recency = 0;      // and of what is left then, the latest
};

struct ChosenRows {
  std::vector<std::int64_t> rows;  // [count] of the tokens, ascending
  // Scores that are equal, or not all finite: the latest were chosen in their place.
  bool degenerate = false;
  double lowest = 0, highest = 0, abs_sum = 0;  // of the finite scores; 0 when there is none
};

class RowChoice {
 public:
  virtual ~RowChoice() = default;
  virtual std::int64_t count() const = 0;
  // Waits until the choice is made.
  virtual ChosenRows wait() = 0;
};

}  // namespace winnow
