#include "calibrate/retrieval_signal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/check.h"
#include "runtime/session.h"

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
  Backend& backend = engine.backend();
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    const std::vector<std::int64_t> needle = needle_tokens(engine.tokenizer(), prompts[p]);
    check(!needle.empty(), "measure_retrieval_signal: a prompt without its needle");
    const auto count =
        static_cast<std::int64_t>(std::ceil(settings.share * static_cast<double>(prompts[p].tokens.size())));
    std::vector<float> scores(prompts[p].tokens.size());
    Session session(engine);
    PrefillOptions options;
    options.reserve_tokens = 0;
    options.cancelled = cancelled;
    options.progress = [&](double done) {
      if (progress) progress((static_cast<double>(p) + done) / static_cast<double>(prompts.size()));
    };
    options.observe_attention = [&](const AttentionView& view) {
      if (view.query_rows.back() != view.kv->rows - 1) return;  // not the chunk with the last queries
      const std::int64_t window = std::min(settings.window, view.q.rows);
      backend.window_scores({.q = view.q.slice(view.q.rows - window, window),
                             .kv = view.kv,
                             .scale = view.scale,
                             .reduction = HeadReduction::kMax,
                             .scores = scores});
      recall[view.layer] += recall_among_highest(scores, needle, count) / static_cast<double>(prompts.size());
    };
    if (!session.prefill(prompts[p].tokens, Policy{}, options)) return {};
  }
  return recall;
}

}  // namespace winnow
