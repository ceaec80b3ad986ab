// Tokens per second while decoding, and what share of the machine's memory speed that is.
//
//   decode MODEL [--depths 1,4096] [--batch 1,4,16] [--policies dense,keep07] [--steps 64] [--repeats 3]
//          [--threads 2] [--precision bf16] [--kv same,q8] [--kl TEXT]
//
// Every batch is as many sessions with the same prompt of random tokens. Printed for each: tokens per second
// of all sessions together (median, and the best and worst repeat), milliseconds a step, the bytes a step
// reads (weights once, every session's cache), GB/s, and that as a share of a read of 512 MiB on the same
// threads. Kinds of caches (--kv) take turns.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/elapsed.h"
#include "core/mapped_file.h"
#include "measures/distribution.h"
#include "runtime/kv_choice.h"
#include "runtime/session_batch.h"
#include "sparsity/policy.h"

namespace winnow {
namespace {

struct Options {
  std::string model, precision = "bf16", kl;
  std::vector<std::int64_t> depths = {1, 4096};
  std::vector<std::size_t> batches = {1, 4, 16};
  std::vector<std::string> policies = {"dense"}, kv = {"same"};
  int steps = 64, repeats = 3, threads = 2;
};

std::unique_ptr<Engine> open_engine(const Options& options, Precision precision, KvType kv = KvType::kSame) {
  return Engine::open({.model = options.model,
                       .random_weights = "",
                       .precision = precision,
                       .kv = kv,
                       .threads = options.threads,
                       .progress = {}});
}

double read_gbytes_per_s(int threads) {
  std::vector<std::uint64_t> memory(std::size_t{64} << 20, 1);
  double best = 0;
  for (int i = 0; i < 4; ++i) {
    const auto start = std::chrono::steady_clock::now();
    std::uint64_t sum = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : sum)
    for (std::size_t j = 0; j < memory.size(); ++j) sum += memory[j];
    if (sum != memory.size()) std::abort();
    best = std::max(best, static_cast<double>(memory.size()) * 8e-6 / ms_since(start));
  }
  return best;
}

void measure(const Options& options, const Engine& engine, const std::string& policy_name, std::int64_t depth,
             std::size_t batch, double peak) {
  const Policy policy = parse_policy(policy_name, engine.facts());
  std::vector<TokenId> prompt;
  for (std::int64_t i = 0; i < depth; ++i)
    prompt.push_back(static_cast<TokenId>((i * 7919 + 13) % engine.arch().vocab));
  std::vector<std::unique_ptr<Session>> owned;
  std::vector<Session*> sessions;
  std::vector<TokenId> tokens(batch, 1);
  for (std::size_t i = 0; i < batch; ++i) {
    sessions.push_back(owned.emplace_back(std::make_unique<Session>(engine)).get());
    PrefillOptions prefill;
    prefill.reserve_tokens = options.steps + 8;
    sessions.back()->prefill(prompt, policy, prefill);
  }
  for (int i = 0; i < 4; ++i) decode_batch(sessions, tokens);
  std::vector<double> step_ms;
  const int steps = (options.steps + options.repeats - 1) / options.repeats;
  for (int r = 0; r < options.repeats; ++r) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < steps; ++i) decode_batch(sessions, tokens);
    step_ms.push_back(ms_since(start) / steps);
  }
  std::sort(step_ms.begin(), step_ms.end());
  const double ms = step_ms[step_ms.size() / 2];
  double bytes = static_cast<double>(engine.weights().decode_bytes);
  for (const Session* session : sessions) bytes += static_cast<double>(session->kv_bytes());
  const auto rate = [&](double a_step) { return 1000.0 * static_cast<double>(batch) / a_step; };
  const double speed = bytes * 1e-6 / ms;
  fmt::print(
      "{:<10} kv {}, depth {:>5}, batch {:>2}: {:>7.1f} tokens/s ({:.1f} - {:.1f}), {:.2f} ms a step, {:.1f} "
      "MB, "
      "{:.1f} GB/s, "
      "{:.0f}% of peak\n",
      policy_name, kv_type_name(engine.kv_type()), depth, batch, rate(ms), rate(step_ms.back()),
      rate(step_ms.front()), ms, bytes * 1e-6, speed, 100 * speed / peak);
}

using Rows = std::vector<std::vector<float>>;
constexpr std::size_t kPrompt = 512, kCompared = 256;

// Logits after tokens kPrompt - 1, kPrompt, ...: of a prefill of them all.
Rows prefilled(const Engine& engine, std::span<const TokenId> tokens) {
  Rows rows;
  PrefillOptions prefill;
  prefill.all_logits = [&](std::int64_t first, const MatrixView& logits) {
    for (std::int64_t i = 0; i < logits.rows; ++i) {
      if (first + i + 1 < static_cast<std::int64_t>(kPrompt)) continue;
      rows.emplace_back(logits.row<float>(i), logits.row<float>(i) + logits.cols);
    }
  };
  Session session(engine);
  session.prefill(tokens, Policy{}, prefill);
  return rows;
}

Rows decoded(const Engine& engine, std::span<const TokenId> tokens) {
  Session session(engine);
  session.prefill(tokens.first(kPrompt), Policy{}, {});
  Rows rows = {{session.logits().begin(), session.logits().end()}};
  for (const TokenId token : tokens.subspan(kPrompt)) {
    session.decode(token);
    rows.emplace_back(session.logits().begin(), session.logits().end());
  }
  return rows;
}

// The prompt's own last row is left out: both ways compute it in a prefill.
void print_kl(const char* name, const Rows& exact, const Rows& other,
              const char* exact_name = "f32 prefill") {
  double sum = 0, most = 0;
  int agreeing = 0;
  for (std::size_t i = 1; i < exact.size(); ++i) {
    const double kl = kl_divergence(exact[i], other[i]);
    sum += kl;
    most = std::max(most, kl);
    agreeing += top1(exact[i]) == top1(other[i]);
  }
  const auto count = static_cast<double>(exact.size() - 1);
  fmt::print("KL({} || {}): mean {:.2e}, largest {:.2e}, same first choice {:.1f}%\n", exact_name, name,
             sum / count, most, 100 * agreeing / count);
}

void compare(const Options& options) {
  Rows exact;
  std::vector<TokenId> tokens;
  {
    const auto engine = open_engine(options, Precision::kF32);
    tokens = engine->tokenizer().encode(MappedFile(options.kl).text(), /*parse_special=*/false);
    if (tokens.size() < kPrompt + kCompared) fail(ErrorCode::kBadArgument, "--kl {}: too short", options.kl);
    tokens.resize(kPrompt + kCompared);
    exact = prefilled(*engine, tokens);
    print_kl("f32 decoding", exact, decoded(*engine, tokens));
  }
  const auto engine = open_engine(options, Precision::kBF16);
  print_kl("bf16 prefill", exact, prefilled(*engine, tokens));
  const Rows same = decoded(*engine, tokens);
  print_kl("bf16 decoding", exact, same);
  const Rows q8 = decoded(*open_engine(options, Precision::kBF16, KvType::kQ8), tokens);
  print_kl("bf16 decoding, q8 caches", exact, q8);
  print_kl("bf16 decoding, q8 caches", same, q8, "bf16 decoding");
}

void run(const Options& options) {
  if (!options.kl.empty()) return compare(options);
  const Precision precision = options.precision == "f32" ? Precision::kF32 : Precision::kBF16;
  std::vector<std::unique_ptr<Engine>> engines;
  for (const std::string& kv : options.kv) {
    engines.push_back(open_engine(options, precision, kv_type_of(kv).value()));
  }
  const double peak = read_gbytes_per_s(options.threads);
  fmt::print("{}; memory read {:.1f} GB/s; weights {:.1f} MB a step\n", engines[0]->backend().description(),
             peak, static_cast<double>(engines[0]->weights().decode_bytes) * 1e-6);
  for (const std::string& policy : options.policies) {
    for (const std::int64_t depth : options.depths) {
      for (const std::size_t batch : options.batches) {
        for (const auto& engine : engines) measure(options, *engine, policy, depth, batch, peak);
      }
    }
  }
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  winnow::Options options;
  CLI::App app{"Tokens per second while decoding"};
  app.add_option("model", options.model, "GGUF file or folder")->required();
  app.add_option("--depths", options.depths)->delimiter(',');
  app.add_option("--batch", options.batches)->delimiter(',');
  app.add_option("--policies", options.policies)->delimiter(',');
  app.add_option("--steps", options.steps);
  app.add_option("--repeats", options.repeats);
  app.add_option("--threads", options.threads);
  app.add_option("--precision", options.precision)->check(CLI::IsMember({"bf16", "f32"}));
  app.add_option("--kv", options.kv)->delimiter(',')->check(CLI::IsMember({"same", "q8"}));
  app.add_option("--kl", options.kl, "text file")->check(CLI::ExistingFile);
  CLI11_PARSE(app, argc, argv);
  winnow::run(options);
}
