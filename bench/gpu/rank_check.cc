// Whether a model over several GPUs gives what one gives: KL of the logits after a prompt and after each of
// some decoded tokens, and the share of cache rows that are the same, dense and under policies.
//
//   rank_check MODEL TEXT [TOKENS=2000] [DEVICES=cuda:0,cuda:1]
//
// The first TOKENS of the text; too short a text is refused. One line for each precision, split and policy;
// WINNOW_GPU_EXCHANGE=nccl checks NCCL (docs/multi_gpu.md). Exit code 1 when a bound does not hold: in
// float32 the same rows and a KL of 1e-6, in bf16 99.5% of the rows and a KL of .01 (bf16 rounds the summands
// too).
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <span>
#include <sstream>
#include <string>

#include "core/error.h"
#include "measures/distribution.h"
#include "runtime/engine.h"
#include "runtime/rank_processes.h"
#include "runtime/session.h"
#include "text_tokens.h"

namespace {

using namespace winnow;

constexpr int kDecoded = 8;

struct Outcome {
  std::vector<std::vector<float>> logits;            // after the prompt and each decoded token
  std::vector<std::vector<std::int32_t>> positions;  // [layers] of the cache rows after the prompt
};

Outcome run(const Engine& engine, std::span<const TokenId> tokens, const std::string& policy) {
  Session session(engine);
  session.prefill(tokens, parse_policy(policy, engine.facts()), {});
  Outcome outcome;
  for (std::int64_t layer = 0; layer < engine.arch().layers; ++layer) {
    const auto positions = session.cached_positions(layer);
    outcome.positions.emplace_back(positions.begin(), positions.end());
  }
  const auto note = [&] { outcome.logits.emplace_back(session.logits().begin(), session.logits().end()); };
  note();
  for (int i = 0; i < kDecoded; ++i) {
    session.decode(tokens[static_cast<std::size_t>(i)]);
    note();
  }
  return outcome;
}

double same_rows(const Outcome& a, const Outcome& b) {
  double same = 0, all = 0;
  for (std::size_t layer = 0; layer < a.positions.size(); ++layer) {
    std::vector<std::int32_t> both;
    std::set_intersection(a.positions[layer].begin(), a.positions[layer].end(), b.positions[layer].begin(),
                          b.positions[layer].end(), std::back_inserter(both));
    same += static_cast<double>(both.size());
    all += static_cast<double>(a.positions[layer].size());
  }
  return same / all;
}

bool compare(const Outcome& one, const Outcome& many, Precision precision, const std::string& what) {
  const double prompt_kl = kl_divergence(one.logits[0], many.logits[0]);
  double decode_kl = 0;
  for (std::size_t i = 1; i < one.logits.size(); ++i) {
    decode_kl = std::max(decode_kl, kl_divergence(one.logits[i], many.logits[i]));
  }
  const double rows = same_rows(one, many);
  const bool f32 = precision == Precision::kF32;
  const bool holds = rows >= (f32 ? 1.0 : 0.995) && prompt_kl <= (f32 ? 1e-6 : 0.01);
  fmt::print("{:4} {:40} rows {:.4f}  KL {:.2e}  decoded, largest {:.2e}  {}\n", precision_name(precision),
             what, rows, prompt_kl, decode_kl, holds ? "ok" : "NOT WITHIN BOUNDS");
  std::fflush(stdout);
  return holds;
}

std::vector<std::string> device_list(const std::string& text) {
  std::vector<std::string> devices;
  std::stringstream names(text);
  for (std::string name; std::getline(names, name, ',');) devices.push_back(name);
  return devices;
}

int check_ranks(const std::string& model, std::span<const TokenId> tokens,
                const std::vector<std::string>& devices) {
  const auto ranks = start_ranks(static_cast<int>(devices.size()));
  int failed = 0;
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    EngineOptions options;
    options.model = model;
    options.device = devices[0];
    options.precision = precision;
    options.attention_costs = [](const BlockRule&) { return AttentionCosts{1, 0.1, 0, 0}; };  // not measured
    const auto one = Engine::open(options);
    options.devices = devices;
    for (const auto& [split, name] :
         {std::pair{Split::kTensor, "tensor"}, std::pair{Split::kLayers, "layers"}}) {
      options.split = split;
      options.ranks = ranks;
      const auto many = Engine::open(options);
      for (const char* policy : {"dense", "keep08", "keep08+pooled=0.9"}) {
        const Outcome expected = run(*one, tokens, policy), found = run(*many, tokens, policy);
        failed += !compare(expected, found, precision, fmt::format("{} {}", name, policy));
      }
    }
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: rank_check MODEL TEXT [TOKENS] [DEVICES]\n");
    return 2;
  }
  try {
    const std::int64_t count = std::max<std::int64_t>(kDecoded, argc > 3 ? std::atoll(argv[3]) : 2000);
    const auto tokens = text_tokens(argv[1], argv[2], count);
    return check_ranks(argv[1], std::span(tokens).first(static_cast<std::size_t>(count)),
                       device_list(argc > 4 ? argv[4] : "cuda:0,cuda:1"));
  } catch (const std::exception& error) {
    fmt::print(stderr, "rank_check: {}\n", error.what());
    return 2;
  }
}
