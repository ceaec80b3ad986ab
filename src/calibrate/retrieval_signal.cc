#include "calibrate/retrieval_signal.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/error.h"
#include "runtime/prefill_plan.h"
#include "runtime/session.h"
#include "sparsity/token_pruner.h"

namespace winnow {
namespace {

// Rates one prompt's tokens by every head, as the prefill passes by.
class SignalObserver {
 public:
  SignalObserver(const Engine& engine, const SignalSettings& settings, std::span<const std::int64_t> needle,
                 double weight, RetrievalSignal& signal)
      : engine_(engine), settings_(settings), needle_(needle), weight_(weight), signal_(signal) {}

  void observe(const AttentionView& view) {
    const std::int64_t rows = view.kv->rows, heads = signal_.heads;
    if (view.query_rows.back() + 1 != rows) return;  // not the last queries
    const std::int64_t window = std::min(settings_.window, view.q.rows);
    std::vector<float> scores(static_cast<std::size_t>(heads * rows));
    engine_.backend().window_scores({.q = view.q.slice(view.q.rows - window, window),
                                     .kv = view.kv,
                                     .scale = view.scale,
                                     .queries = QueryReduction::kMax,
                                     .per_head = true,
                                     .scores = scores,
                                     .sliding_window = view.window});
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::span<float> own =
          std::span(scores).subspan(static_cast<std::size_t>(head * rows), static_cast<std::size_t>(rows));
      max_pool(own, settings_.pool);
      add(own, signal_.index(view.layer, head));
    }
  }

 private:
  void add(std::span<const float> scores, std::size_t at) {
    const auto begin = std::min<std::ptrdiff_t>(settings_.skip_first, std::ssize(scores));
    const auto end = std::max(begin, std::ssize(scores) - settings_.skip_last);
    const std::span<const float> rated = scores.subspan(begin, end - begin);
    double found = 0, worst = 0;
    for (const std::int64_t token : needle_) {
      const auto higher =
          std::count_if(rated.begin(), rated.end(), [&](float score) { return score > scores[token]; });
      const double needed = static_cast<double>(higher + 1) / static_cast<double>(scores.size());
      if (needed <= settings_.share) found += 1;
      worst = std::max(worst, needed);
    }
    signal_.recall[at] += weight_ * found / static_cast<double>(needle_.size());
    signal_.needed[at] = std::max(signal_.needed[at], worst);
  }

  const Engine& engine_;
  const SignalSettings& settings_;
  std::span<const std::int64_t> needle_;
  double weight_;
  RetrievalSignal& signal_;
};

// The last chunk of a prefill must hold all the queries that vote: tokens go from the beginning of the text,
// or from behind a needle that stands there.
void make_last_chunk_long_enough(std::vector<TokenId>& tokens, std::span<const std::int64_t> needle,
                                 std::int64_t window) {
  constexpr std::int64_t kLead = 64;  // template and instruction stay
  const std::int64_t count = std::ssize(tokens), rest = count % kChunkRows;
  if (count <= kChunkRows || rest == 0 || rest >= window) return;
  const std::int64_t first = needle.front() < kLead + rest ? std::max(kLead, needle.back() + 1) : kLead;
  tokens.erase(tokens.begin() + first, tokens.begin() + first + rest);
}

}  // namespace

std::vector<double> RetrievalSignal::recall_by_layer() const {
  std::vector<double> best;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const auto begin = recall.begin() + static_cast<std::ptrdiff_t>(index(layer, 0));
    best.push_back(*std::max_element(begin, begin + heads));
  }
  return best;
}

nlohmann::json to_json(const RetrievalSignal& signal) {
  return {{"layers", signal.layers},
          {"heads", signal.heads},
          {"recall", signal.recall},
          {"needed", signal.needed}};
}

RetrievalSignal retrieval_signal_from_json(const nlohmann::json& json) {
  RetrievalSignal signal;
  json.at("layers").get_to(signal.layers);
  json.at("heads").get_to(signal.heads);
  json.at("recall").get_to(signal.recall);
  json.at("needed").get_to(signal.needed);
  const auto expected = static_cast<std::size_t>(signal.layers * signal.heads);
  if (expected == 0 || signal.recall.size() != expected || signal.needed.size() != expected) {
    fail(ErrorCode::kBadFormat, "the retrieval signal of calibration: its sizes do not fit together");
  }
  return signal;
}

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

RetrievalSignal measure_retrieval_signal(const Engine& engine, std::span<const NeedlePrompt> prompts,
                                         const SignalSettings& settings,
                                         const std::function<void(double)>& progress,
                                         const std::function<bool()>& cancelled) {
  RetrievalSignal signal{engine.arch().layers, engine.arch().heads, {}, {}};
  signal.recall.assign(static_cast<std::size_t>(signal.layers * signal.heads), 0.0);
  signal.needed = signal.recall;
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    NeedlePrompt prompt = prompts[p];
    std::vector<std::int64_t> needle = needle_tokens(engine.tokenizer(), prompt);
    if (!needle.empty()) {
      make_last_chunk_long_enough(prompt.tokens, needle, settings.window);
      needle = needle_tokens(engine.tokenizer(), prompt);
    }
    if (needle.empty()) {
      fail(ErrorCode::kUnsupported,
           "the number {} cannot be found again among the prompt's tokens: this tokenizer rewrites it",
           prompt.needle);
    }
    SignalObserver observer(engine, settings, needle, 1.0 / static_cast<double>(prompts.size()), signal);
    Session session(engine);
    PrefillOptions options;
    options.reserve_tokens = 0;
    options.cancelled = cancelled;
    options.progress = [&](double done) {
      if (progress) progress((static_cast<double>(p) + done) / static_cast<double>(prompts.size()));
    };
    options.observe_attention = [&](const AttentionView& view) { observer.observe(view); };
    if (!session.prefill(prompt.tokens, Policy{}, options)) return {};
  }
  return signal;
}

}  // namespace winnow
