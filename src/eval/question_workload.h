// Questions of a task, asked and scored.
#pragma once

#include <memory>

#include "eval/prompt_encoder.h"
#include "eval/task.h"
#include "eval/workload.h"
#include "runtime/engine.h"

namespace winnow {

struct QuestionSettings {
  std::int64_t length = 4096, count = 0;
  std::uint64_t seed = 0;
};

// Measure of a sample: "score". Answers are greedy. A follow-up is asked in a second turn under the same
// policy, as a conversation would (under the oracle densely: it has no scores for it). Everything must
// outlive the workload.
std::unique_ptr<Workload> make_question_workload(const Engine& engine, const PromptEncoder& encoder,
                                                 const Task& task, const QuestionSettings& settings);

// `tokens`, or its first and last halves when there are more than `most`: LongBench's way to make a prompt
// fit.
std::vector<TokenId> without_middle(std::vector<TokenId> tokens, std::int64_t most);

}  // namespace winnow
