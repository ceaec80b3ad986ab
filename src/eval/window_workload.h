// Windows of running text: what a policy changes in the model's predictions of the text that follows.
//
// A window is `length` tokens. Its context, all but the last 256 tokens, is read under the policy. Then the
// 256 are read densely in one go over the caches that this left, and the distributions of each of the 256
// tokens are compared with those after a dense context.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "eval/eval_text.h"
#include "eval/prompt_encoder.h"
#include "eval/workload.h"
#include "runtime/engine.h"

namespace winnow {

constexpr std::int64_t kContinuationTokens = 256;
constexpr std::int64_t kWithoutContextTokens = 64;  // context left for "without context"

// Windows spread evenly over the texts, taking turns among them. Error(kBadArgument), naming the text and the
// tokens found and needed, when one is empty or shorter than a window, or `length` leaves no context.
// `window` begins with the model's begin-of-text token where it has one.
struct TextWindows {
  std::vector<std::vector<TokenId>> windows;
  bool overlap = false;  // the texts are too short for that many disjoint windows
};
TextWindows cut_windows(const PromptEncoder& encoder, std::span<const EvalText> texts, std::int64_t length,
                        std::int64_t count);

struct WindowSettings {
  std::int64_t length = 4096;
  bool second_half = false;  // measure "kl_second_half" too: two passes more, with all logits
  nlohmann::json texts;      // says which texts
  bool keep_dense = false;   // the dense result of each window on disk, for items that are made again
};

// Policies whose predictions can be compared at every token of the window: they select blocks and drop no
// token.
bool has_second_half(const EvalPolicy& policy);

// Measures of a sample: "ce", "ce_dense", "ce_without_context" (nats), "kl", "top1", and where asked for and
// possible "kl_second_half". The engine must outlive the workload.
std::unique_ptr<Workload> make_window_workload(const Engine& engine, TextWindows windows,
                                               const WindowSettings& settings);

}  // namespace winnow
