// What policies cost: change of cross-entropy and KL(dense || policy) of the next-token distribution over the
// 256 tokens that follow a pruned 3,840-token context, mean over windows of a text (the measure of
// docs/policies.md). Until `winnow eval` exists this is where the README's quality figures come from.
//   build/release/bin/policy_quality MODEL TEXT WINDOWS POLICY...
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"
#include "measures/distribution.h"
#include "measures/statistics.h"
#include "runtime/session.h"

namespace winnow {
namespace {

constexpr std::int64_t kContext = 3840, kContinuation = 256;
constexpr std::int64_t kPredicted = kContinuation - 1;  // what follows the last token is not known

struct Window {
  std::vector<float> logits;  // [kContinuation, vocab]
  double cross_entropy = 0;
  double avgtok = 0, prefill_ms = 0;

  std::span<const float> row(std::int64_t index, std::int64_t vocab) const {
    return std::span(logits).subspan(index * vocab, vocab);
  }
};

// Reads the context under the policy, then the continuation densely on top of its caches.
Window read_window(const Engine& engine, std::span<const TokenId> tokens, const Policy& policy) {
  const std::int64_t vocab = engine.arch().vocab;
  Session session(engine);
  PrefillOptions options;
  options.reserve_tokens = kContinuation;
  session.prefill(tokens.first(kContext), policy, options);
  Window window;
  window.avgtok = session.prefill_stats().avgtok();
  window.prefill_ms = session.prefill_stats().ms;
  options.all_logits = [&](std::int64_t, const MatrixView& logits) {
    window.logits.insert(window.logits.end(), logits.row<float>(0),
                         logits.row<float>(0) + logits.rows * vocab);
  };
  Policy dense;
  dense.tokens.positions = policy.tokens.positions;
  session.prefill(tokens.subspan(kContext, kContinuation), dense, options);
  RunningMean mean;
  for (std::int64_t i = 0; i < kPredicted; ++i)
    mean.add(cross_entropy(window.row(i, vocab), tokens[kContext + i + 1]));
  window.cross_entropy = mean.mean();
  return window;
}

double kl(const Window& p, const Window& q, std::int64_t vocab) {
  RunningMean mean;
  for (std::int64_t i = 0; i < kPredicted; ++i) mean.add(kl_divergence(p.row(i, vocab), q.row(i, vocab)));
  return mean.mean();
}

int run(int argc, char** argv) {
  if (argc < 5) {
    fmt::print(stderr, "usage: policy_quality MODEL TEXT WINDOWS POLICY...\n");
    return 2;
  }
  const auto engine = Engine::open({.model = argv[1], .random_weights = "", .progress = {}});
  std::ifstream file(argv[2]);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto tokens = engine->tokenizer().encode(text, false);
  const std::int64_t windows = std::atoi(argv[3]), length = kContext + kContinuation;
  const std::int64_t step =
      (static_cast<std::int64_t>(tokens.size()) - length) / std::max<std::int64_t>(1, windows - 1);
  if (windows < 1 || static_cast<std::int64_t>(tokens.size()) < length)
    fail(ErrorCode::kBadArgument, "{}: {} tokens are too few for a window of {}", argv[2], tokens.size(),
         length);
  struct Sums {
    double dce = 0, kl = 0, avgtok = 0, speedup = 0;
  };
  std::vector<Sums> sums(static_cast<std::size_t>(argc));
  double dense_ce = 0;
  for (std::int64_t w = 0; w < windows; ++w) {
    const auto span = std::span(tokens).subspan(w * step, length);
    const Window dense = read_window(*engine, span, Policy{});
    dense_ce += dense.cross_entropy / static_cast<double>(windows);
    for (int i = 4; i < argc; ++i) {
      const Window pruned = read_window(*engine, span, parse_policy(argv[i], engine->facts()));
      sums[i].dce += pruned.cross_entropy - dense.cross_entropy;
      sums[i].kl += kl(dense, pruned, engine->arch().vocab);
      sums[i].avgtok += pruned.avgtok;
      sums[i].speedup += dense.prefill_ms / pruned.prefill_ms;
    }
    fmt::print(stderr, "\rwindow {} of {}", w + 1, windows);
  }
  fmt::print(stderr, "\n");
  const auto n = static_cast<double>(windows);
  fmt::print("dense cross-entropy {:.4f} (ppl {:.2f}), {} windows of {} + {} tokens\n", dense_ce,
             std::exp(dense_ce), windows, kContext, kContinuation);
  fmt::print("{:40} {:>8} {:>8} {:>7} {:>8}\n", "policy", "dCE", "KL", "avgtok", "speedup");
  for (int i = 4; i < argc; ++i) {
    fmt::print("{:40} {:8.4f} {:8.4f} {:7.3f} {:7.2f}x\n", argv[i], sums[i].dce / n, sums[i].kl / n,
               sums[i].avgtok / n, sums[i].speedup / n);
  }
  return 0;
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  try {
    return winnow::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "policy_quality: {}\n", error.what());
    return 1;
  }
}
