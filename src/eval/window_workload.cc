#include "eval/window_workload.h"

#include <algorithm>
#include <optional>

#include "core/check.h"
#include "core/error.h"
#include "measures/distribution.h"
#include "measures/logit_file.h"
#include "measures/statistics.h"

namespace winnow {
namespace {

using Tokens = std::span<const TokenId>;

// Logits for each of the continuation's tokens, [tokens, vocab].
struct Continuation {
  std::vector<float> logits;
  std::int64_t vocab = 0;

  std::span<const float> row(std::int64_t i) const {
    return std::span(logits).subspan(static_cast<std::size_t>(i * vocab), static_cast<std::size_t>(vocab));
  }
};

// Reads `tokens` densely on top of what the session holds. The first token's distribution is the session's
// own.
std::optional<Continuation> read_continuation(const Engine& engine, Session& session, Tokens tokens,
                                              PositionMode positions, const Cancelled& cancelled) {
  Continuation result{{session.logits().begin(), session.logits().end()}, engine.arch().vocab};
  const std::int64_t count = std::ssize(tokens);
  result.logits.reserve(static_cast<std::size_t>(count * result.vocab));
  Policy dense;
  dense.tokens.positions = positions;
  PrefillOptions options;
  options.reserve_tokens = 0;
  options.cancelled = cancelled;
  options.all_logits = [&](std::int64_t first, const MatrixView& logits) {
    const std::int64_t wanted =
        std::min(logits.rows, count - 1 - first);  // none for what follows the last token
    if (wanted <= 0) return;
    const float* data = logits.row<float>(0);
    result.logits.insert(result.logits.end(), data, data + wanted * result.vocab);
  };
  if (!session.prefill(tokens, dense, options)) return std::nullopt;
  return result;
}

double mean_cross_entropy(const Continuation& continuation, Tokens tokens) {
  RunningMean mean;
  for (std::int64_t i = 0; i < std::ssize(tokens); ++i)
    mean.add(cross_entropy(continuation.row(i), tokens[i]));
  return mean.mean();
}

// What every policy is compared with at one window, set aside for later items of the same window.
struct DenseResult {
  DenseResult(const Continuation& continuation, const Sample& sample_in, double without_context_in)
      : logits(kContinuationTokens, continuation.vocab),
        sample(sample_in),
        without_context(without_context_in) {
    logits.write(0, continuation.logits);
  }

  LogitFile logits;  // of the continuation
  Sample sample;
  double without_context;
};

class WindowItem final : public Item {
 public:
  // `kept` is filled, or used when it is; null: nothing is set aside.
  WindowItem(const Engine& engine, const std::vector<TokenId>& tokens, bool second_half,
             std::unique_ptr<DenseResult>* kept)
      : engine_(engine),
        wants_second_half_(second_half),
        kept_(kept),
        context_(Tokens(tokens).first(tokens.size() - kContinuationTokens)),
        continuation_(Tokens(tokens).last(kContinuationTokens)),
        whole_(tokens) {}

  std::optional<Sample> measure(const EvalPolicy& policy, const Cancelled& cancelled) override {
    if (policy.dense() && policy.policy.tokens.positions == PositionMode::kOriginal) {
      if (!dense_ && !read_dense(cancelled)) return std::nullopt;
      return compare(dense_sample_, *dense_);
    }
    if (policy.oracle() && !oracle_) {
      oracle_ = Oracle::observe(engine_, context_, continuation_, cancelled);
      if (!oracle_) return std::nullopt;
    }
    Sample sample;
    const auto logits = read(policy, sample, cancelled);
    if (!logits || (!dense_ && !read_dense(cancelled))) return std::nullopt;
    sample = compare(sample, *logits);
    if (wants_second_half_ && has_second_half(policy)) {
      const auto kl = second_half(policy, cancelled);
      if (!kl) return std::nullopt;
      sample.values["kl_second_half"] = *kl;
    }
    return sample;
  }

 private:
  bool read_dense(const Cancelled& cancelled) {
    if (kept_ == nullptr || *kept_ == nullptr) return compute_dense(cancelled);
    const DenseResult& kept = **kept_;
    Continuation logits{{}, kept.logits.vocab()};
    logits.logits.resize(static_cast<std::size_t>(kept.logits.rows() * kept.logits.vocab()));
    kept.logits.read(0, logits.logits);
    dense_ = std::move(logits);
    dense_sample_ = kept.sample;
    without_context_ = kept.without_context;
    dense_ce_ = mean_cross_entropy(*dense_, continuation_);
    return true;
  }

  bool compute_dense(const Cancelled& cancelled) {
    const EvalPolicy dense{"dense", Policy{}, std::nullopt};
    auto logits = read(dense, dense_sample_, cancelled);
    if (!logits) return false;
    const auto without = cross_entropy_without_context(cancelled);
    if (!without) return false;
    without_context_ = *without;
    dense_ = std::move(logits);
    dense_ce_ = mean_cross_entropy(*dense_, continuation_);
    if (kept_ != nullptr) *kept_ = std::make_unique<DenseResult>(*dense_, dense_sample_, without_context_);
    return true;
  }

  std::optional<Continuation> read(const EvalPolicy& policy, Sample& sample,
                                   const Cancelled& cancelled) const {
    PolicySession reader(engine_, policy);
    if (!reader.read(context_, oracle_ ? &*oracle_ : nullptr, kContinuationTokens, cancelled))
      return std::nullopt;
    sample.prompt_tokens = std::ssize(context_);
    sample.prefill = reader.facts();
    if (policy.timed()) sample.ttft_ms = reader.facts().ms;
    return read_continuation(engine_, reader.session(), continuation_, policy.policy.tokens.positions,
                             cancelled);
  }

  std::optional<double> cross_entropy_without_context(const Cancelled& cancelled) const {
    const Tokens rest = context_.last(std::min<std::size_t>(kWithoutContextTokens, context_.size()));
    Session session(engine_);
    PrefillOptions options;
    options.reserve_tokens = kContinuationTokens;
    options.cancelled = cancelled;
    if (!session.prefill(rest, Policy{}, options)) return std::nullopt;
    const auto logits =
        read_continuation(engine_, session, continuation_, PositionMode::kOriginal, cancelled);
    if (!logits) return std::nullopt;
    return mean_cross_entropy(*logits, continuation_);
  }

  Sample compare(Sample sample, const Continuation& logits) const {
    RunningMean kl, same;
    for (std::int64_t i = 0; i < kContinuationTokens; ++i) {
      kl.add(kl_divergence(dense_->row(i), logits.row(i)));
      same.add(top1(dense_->row(i)) == top1(logits.row(i)) ? 1 : 0);
    }
    sample.values = {{"ce", mean_cross_entropy(logits, continuation_)},
                     {"ce_dense", dense_ce_},
                     {"ce_without_context", without_context_},
                     {"kl", kl.mean()},
                     {"top1", same.mean()}};
    return sample;
  }

  // One pass over the whole window under `policy`; `use` gets the logits of the rows in its second half.
  bool read_whole(const Policy& policy, const Cancelled& cancelled,
                  const std::function<void(std::int64_t, std::span<const float>)>& use) const {
    const std::int64_t vocab = engine_.arch().vocab, first_wanted = std::ssize(whole_) / 2;
    Session session(engine_);
    PrefillOptions options;
    options.reserve_tokens = 0;
    options.cancelled = cancelled;
    options.all_logits_from = first_wanted;
    options.all_logits = [&](std::int64_t first, const MatrixView& logits) {
      for (std::int64_t i = 0; i < logits.rows; ++i) {
        use(first + i - first_wanted, {logits.row<float>(i), static_cast<std::size_t>(vocab)});
      }
    };
    return session.prefill(whole_, policy, options);
  }

  std::optional<double> second_half(const EvalPolicy& policy, const Cancelled& cancelled) {
    const std::int64_t vocab = engine_.arch().vocab;
    if (!dense_half_) {
      LogitFile& file = half_file_.emplace(std::ssize(whole_) - std::ssize(whole_) / 2, vocab);
      dense_half_ = read_whole(Policy{}, cancelled, [&](std::int64_t row, std::span<const float> logits) {
        file.write(row, logits);
      });
      if (!dense_half_) half_file_.reset();
    }
    if (!dense_half_) return std::nullopt;
    RunningMean kl;
    std::vector<float> dense(static_cast<std::size_t>(vocab));
    const bool done =
        read_whole(policy.policy, cancelled, [&](std::int64_t row, std::span<const float> logits) {
          half_file_->read(row, dense);
          kl.add(kl_divergence(dense, logits));
        });
    return done ? std::optional(kl.mean()) : std::nullopt;
  }

  const Engine& engine_;
  bool wants_second_half_;
  std::unique_ptr<DenseResult>* kept_;
  Tokens context_, continuation_, whole_;
  std::optional<Continuation> dense_;
  Sample dense_sample_;
  double without_context_ = 0, dense_ce_ = 0;
  std::optional<Oracle> oracle_;
  std::optional<LogitFile> half_file_;  // the dense logits of the second half, made when first needed
  bool dense_half_ = false;
};

class WindowWorkload final : public Workload {
 public:
  WindowWorkload(const Engine& engine, TextWindows windows, const WindowSettings& settings)
      : engine_(engine),
        windows_(std::move(windows)),
        settings_(settings),
        dense_(settings.keep_dense ? windows_.windows.size() : 0) {}

  std::string name() const override { return "windows"; }
  std::int64_t length() const override { return settings_.length; }
  std::int64_t items() const override { return std::ssize(windows_.windows); }
  nlohmann::json identity() const override {
    return {"windows", items(), settings_.second_half,
            settings_.texts};  // their number decides where each begins
  }
  std::unique_ptr<Item> item(std::int64_t index) const override {
    return std::make_unique<WindowItem>(engine_, windows_.windows[index], settings_.second_half,
                                        settings_.keep_dense ? &dense_[index] : nullptr);
  }

 private:
  const Engine& engine_;
  TextWindows windows_;
  WindowSettings settings_;
  mutable std::vector<std::unique_ptr<DenseResult>> dense_;  // by window, with keep_dense
};

}  // namespace

TextWindows cut_windows(const PromptEncoder& encoder, std::span<const EvalText> texts, std::int64_t length,
                        std::int64_t count) {
  check(!texts.empty(), "cut_windows: at least one text");
  const std::int64_t least = kContinuationTokens + 2;
  if (length < least) {
    fail(ErrorCode::kBadArgument, "a length of {} tokens is too short for windows of text: {} is the least",
         length, least);
  }
  const std::vector<TokenId>& begin = encoder.begin();
  const std::int64_t body = length - std::ssize(begin), text_count = std::ssize(texts);
  TextWindows result;
  result.windows.resize(static_cast<std::size_t>(count));
  for (std::int64_t t = 0; t < text_count; ++t) {
    const std::vector<TokenId> tokens = encoder.text_tokens(texts[t].content);
    const std::int64_t found = std::ssize(tokens);
    if (found == 0) fail(ErrorCode::kBadArgument, "{}: is empty", texts[t].name);
    if (found < body) {
      fail(ErrorCode::kBadArgument, "{}: {} tokens of text found, {} needed for a window of that length",
           texts[t].name, found, body);
    }
    const std::int64_t here = (count - t + text_count - 1) / text_count;  // windows t, t + text_count, ...
    result.overlap = result.overlap || here * body > found;
    for (std::int64_t i = 0; i < here; ++i) {
      const std::int64_t first = here == 1 ? 0 : i * (found - body) / (here - 1);
      std::vector<TokenId>& window = result.windows[t + i * text_count];
      window = begin;
      window.insert(window.end(), tokens.begin() + first, tokens.begin() + first + body);
    }
  }
  return result;
}

bool has_second_half(const EvalPolicy& policy) {
  return !policy.policy.attention.dense() && !policy.policy.prunes() && !policy.eviction;
}

std::unique_ptr<Workload> make_window_workload(const Engine& engine, TextWindows windows,
                                               const WindowSettings& settings) {
  return std::make_unique<WindowWorkload>(engine, std::move(windows), settings);
}

}  // namespace winnow
