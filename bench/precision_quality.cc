// What computing in bf16 and int8 costs and gains: KL(f32 || precision), change of cross-entropy and top-1
// agreement of all next-token distributions over windows of a text, and the time of a dense prefill, the
// precisions taking turns.
//   build/release/bin/precision_quality MODEL TEXT WINDOWS LENGTH [TIMED_LENGTH...]
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.h"
#include "measures/distribution.h"
#include "measures/statistics.h"
#include "runtime/session.h"
#include "text_tokens.h"

namespace winnow {
namespace {

constexpr Precision kCompared[] = {Precision::kBF16, Precision::kInt8};
constexpr int kRounds = 7;

std::unique_ptr<Engine> open(const char* model, Precision precision) {
  return Engine::open({.model = model, .random_weights = "", .precision = precision, .progress = {}});
}

std::vector<float> all_logits(const Engine& engine, std::span<const TokenId> tokens) {
  std::vector<float> result;
  Session session(engine);
  PrefillOptions options;
  options.all_logits = [&](std::int64_t, const MatrixView& logits) {
    result.insert(result.end(), logits.row<float>(0), logits.row<float>(0) + logits.rows * logits.cols);
  };
  session.prefill(tokens, Policy{}, options);
  return result;
}

struct Quality {
  RunningMean kl, dce, top1, cross_entropy;
};

void compare(std::span<const float> exact, std::span<const float> found, std::span<const TokenId> tokens,
             std::size_t vocab, Quality& quality) {
  for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
    const auto p = exact.subspan(i * vocab, vocab), q = found.subspan(i * vocab, vocab);
    const double loss = cross_entropy(q, tokens[i + 1]);
    quality.kl.add(kl_divergence(p, q));
    quality.dce.add(loss - cross_entropy(p, tokens[i + 1]));
    quality.top1.add(top1(p) == top1(q) ? 1 : 0);
    quality.cross_entropy.add(loss);
  }
}

double prefill_ms(const Engine& engine, std::span<const TokenId> tokens) {
  Session session(engine);
  session.prefill(tokens, Policy{}, {});
  return session.prefill_stats().ms;
}

void measure_quality(const char* model, std::span<const TokenId> tokens, std::int64_t windows,
                     std::int64_t length) {
  const auto exact_engine = open(model, Precision::kF32);
  const auto vocab = static_cast<std::size_t>(exact_engine->arch().vocab);
  std::vector<std::unique_ptr<Engine>> engines;
  for (const Precision precision : kCompared) engines.push_back(open(model, precision));
  std::vector<Quality> qualities(engines.size());
  for (std::int64_t w = 0; w < windows; ++w) {
    const auto window =
        tokens.subspan(static_cast<std::size_t>(w * length), static_cast<std::size_t>(length));
    const std::vector<float> exact = all_logits(*exact_engine, window);
    for (std::size_t i = 0; i < engines.size(); ++i) {
      compare(exact, all_logits(*engines[i], window), window, vocab, qualities[i]);
    }
  }
  fmt::print("{} windows of {} tokens\n{:10} {:>9} {:>9} {:>7} {:>10}\n", windows, length, "precision", "KL",
             "dCE", "top-1", "perplexity");
  for (std::size_t i = 0; i < engines.size(); ++i) {
    const Quality& q = qualities[i];
    fmt::print("{:10} {:9.5f} {:+9.5f} {:7.4f} {:10.3f}\n", precision_name(kCompared[i]), q.kl.mean(),
               q.dce.mean(), q.top1.mean(), std::exp(q.cross_entropy.mean()));
  }
}

void measure_time(const char* model, std::span<const TokenId> tokens, std::span<const std::int64_t> lengths) {
  std::vector<std::unique_ptr<Engine>> engines;
  for (const Precision precision : kCompared) engines.push_back(open(model, precision));
  for (const std::int64_t length : lengths) {
    const auto prompt = tokens.first(static_cast<std::size_t>(length));
    std::vector<std::vector<double>> samples(engines.size());
    for (int round = -1; round < kRounds; ++round) {  // the first warms up
      for (std::size_t i = 0; i < engines.size(); ++i) {
        const double ms = prefill_ms(*engines[i], prompt);
        if (round >= 0) samples[i].push_back(ms);
      }
    }
    for (auto& of_one : samples) std::sort(of_one.begin(), of_one.end());
    const double bf16 = samples[0][kRounds / 2], int8 = samples[1][kRounds / 2];
    fmt::print(
        "prefill of {} tokens: bf16 {:.1f} ms ({:.1f} to {:.1f}), int8 {:.1f} ms ({:.1f} to {:.1f}): "
        "{:.2f}x\n",
        length, bf16, samples[0].front(), samples[0].back(), int8, samples[1].front(), samples[1].back(),
        bf16 / int8);
  }
}

int run(int argc, char** argv) {
  if (argc < 5) {
    fmt::print(stderr, "usage: precision_quality MODEL TEXT WINDOWS LENGTH [TIMED_LENGTH...]\n");
    return 2;
  }
  const std::int64_t windows = std::atoi(argv[3]), length = std::atoi(argv[4]);
  std::vector<std::int64_t> timed;
  for (int i = 5; i < argc; ++i) timed.push_back(std::atoi(argv[i]));
  const std::int64_t needed =
      std::max(windows * length, timed.empty() ? 0 : *std::max_element(timed.begin(), timed.end()));
  const std::vector<TokenId> tokens = text_tokens(argv[1], argv[2], needed);
  if (windows > 0) measure_quality(argv[1], tokens, windows, length);
  measure_time(argv[1], tokens, timed);
  return 0;
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  try {
    return winnow::run(argc, argv);
  } catch (const winnow::Error& error) {
    fmt::print(stderr, "precision_quality: {}\n", error.what());
    return 1;
  }
}
