// Needles in a haystack: RULER's eight variants, and three of our own (docs/evaluation.md).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "eval/eval_text.h"
#include "eval/task.h"

namespace winnow {

enum class HaystackKind : std::uint8_t { kNoise, kEssay, kNeedles };
enum class NeedleText : std::uint8_t { kWords, kNumbers, kUuids };

// One row of RULER's synthetic.yaml.
struct RulerNiah {
  std::string name;
  HaystackKind haystack = HaystackKind::kEssay;
  NeedleText keys = NeedleText::kWords, values = NeedleText::kNumbers;
  std::int64_t key_count = 1, values_of_key = 1, queries = 1;
};
std::vector<RulerNiah> ruler_niah_tasks();

// `essays` and `encoder` must outlive the task.
std::unique_ptr<Task> make_ruler_niah(const RulerNiah& settings, const PromptEncoder& encoder,
                                      const Essays& essays);

// "niah": a number of five digits in an essay, RULER's wording, at 5, 15, ... 95% by the question's index; a
// prompt of length x 3550 / 4096 tokens.
std::unique_ptr<Task> make_niah(const PromptEncoder& encoder, const Essays& essays);

// "niah_paraphrase": the same, but needle and question share no word.
std::unique_ptr<Task> make_niah_paraphrase(const PromptEncoder& encoder, const Essays& essays);

// "second_question": two needles; the second is asked for in a second turn, after the prompt was read (and
// pruned) for the first.
std::unique_ptr<Task> make_second_question(const PromptEncoder& encoder, const Essays& essays);

}  // namespace winnow
