#include "calibrate/retrieval_signal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "eval/attention_sums.h"
#include "runtime/session.h"
#include "sparsity/token_pruner.h"

namespace winnow {
namespace {

// Share of `wanted` among the `count` positions with the highest scores.
double recall_among_highest(std::span<const float> scores, std::span<const std::int64_t> wanted,
                            std::int64_t count) {
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  count = std::min<std::int64_t>(count, std::ssize(order));
  std::nth_element(order.begin(), order.begin() + count - 1, order.end(),
                   [&](std::int64_t a, std::int64_t b) { return scores[a] > scores[b]; });
  order.resize(static_cast<std::size_t>(count));
  const auto found = std::count_if(wanted.begin(), wanted.end(), [&](std::int64_t token) {
    return std::find(order.begin(), order.end(), token) != order.end();
  });
  return static_cast<double>(found) / static_cast<double>(wanted.size());
}

}  // namespace

std::vector<std::int64_t> needle_tokens(const Tokenizer& tokenizer, const NeedlePrompt& prompt) {
  std::string text;
  std::vector<std::size_t> ends;
  for (const TokenId token : prompt.tokens) {
    text += tokenizer.token_bytes(token);
    ends.push_back(text.size());
  }
  std::vector<std::int64_t> tokens;
  const std::size_t begin = text.find(prompt.needle);
  if (begin == std::string::npos || prompt.needle.empty()) return tokens;
  for (std::size_t i = 0; i < ends.size(); ++i) {
    const std::size_t start = i == 0 ? 0 : ends[i - 1];
    if (start < begin + prompt.needle.size() && ends[i] > begin)
      tokens.push_back(static_cast<std::int64_t>(i));
  }
  return tokens;
}

std::vector<double> measure_retrieval_signal(const Engine& engine, std::span<const NeedlePrompt> prompts,
                                             const SignalSettings& settings,
                                             const std::function<void(double)>& progress,
                                             const std::function<bool()>& cancelled) {
  std::vector<double> recall(static_cast<std::size_t>(engine.arch().layers), 0.0);
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    const std::vector<std::int64_t> needle = needle_tokens(engine.tokenizer(), prompts[p]);
    if (needle.empty()) {
      fail(ErrorCode::kUnsupported,
           "the number {} cannot be found again among the prompt's tokens: this tokenizer rewrites it",
           prompts[p].needle);
    }
    const auto count =
        static_cast<std::int64_t>(std::ceil(settings.share * static_cast<double>(prompts[p].tokens.size())));
    AttentionSums sums(engine, settings.window);
    Session session(engine);
    PrefillOptions options;
    options.reserve_tokens = 0;
    options.cancelled = cancelled;
    options.progress = [&](double done) {
      if (progress) progress((static_cast<double>(p) + done) / static_cast<double>(prompts.size()));
    };
    options.observe_attention = [&](const AttentionView& view) { sums.add(view); };
    if (!session.prefill(prompts[p].tokens, Policy{}, options)) return {};
    for (std::int64_t layer = 0; layer < engine.arch().layers; ++layer) {
      std::vector<float> scores = sums.max_over_heads(layer);
      max_pool(scores, settings.pool);
      recall[layer] += recall_among_highest(scores, needle, count) / static_cast<double>(prompts.size());
    }
  }
  return recall;
}

}  // namespace winnow
