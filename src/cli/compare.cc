// winnow run --compare: the same prompt read densely and under a policy.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/provenance.h"
#include "cli/run.h"
#include "cli/table.h"

namespace winnow::cli {
namespace {

// How far the policy's answer follows the dense one.
struct Agreement {
  bool first_token_equal = false;
  std::int64_t equal_leading_tokens = 0;
  double first_token_kl = 0;  // KL(dense || policy), nats
};

double log_sum_exp(std::span<const float> logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - highest);
  return highest + std::log(sum);
}

// KL(p || q) of the distributions two vectors of logits stand for.
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  const double p_norm = log_sum_exp(p_logits), q_norm = log_sum_exp(q_logits);
  double kl = 0;
  for (std::size_t i = 0; i < p_logits.size(); ++i) {
    const double log_p = p_logits[i] - p_norm, p = std::exp(log_p);
    if (p > 0) kl += p * (log_p - (q_logits[i] - q_norm));  // 0 log 0 = 0
  }
  return std::max(kl, 0.0);
}

std::ptrdiff_t argmax(std::span<const float> values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

Agreement agreement(const Answer& dense, const Answer& sparse) {
  const auto &a = dense.generation.tokens, &b = sparse.generation.tokens;
  const auto [differs, unused] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return {.first_token_equal = argmax(dense.first_logits) == argmax(sparse.first_logits),
          .equal_leading_tokens = differs - a.begin(),
          .first_token_kl = kl_divergence(dense.first_logits, sparse.first_logits)};
}

std::string kept_text(const Answer& answer) {
  std::string text;
  for (const StageRecord& stage : answer.stages) {
    text += fmt::format("{}{}", text.empty() ? "" : " ", stage.tokens_kept);
  }
  return text.empty() ? "all" : text;
}

void print_table(const Answer& dense, const Answer& sparse, const Policy& policy, const Agreement& agrees) {
  Table table({"", "dense", policy.name});
  const auto row = [&](const char* label, const auto& value) {
    table.add_row({label, value(dense), value(sparse)});
  };
  row("prompt tokens", [](const Answer& a) { return fmt::format("{}", a.prompt_tokens); });
  row("tokens kept", [](const Answer& a) { return fmt::format("{}", a.kept_tokens()); });
  row("avgtok", [](const Answer& a) { return fmt::format("{:.3f}", a.prefill.avgtok()); });
  row("prefill ms", [](const Answer& a) { return fmt::format("{:.1f}", a.prefill.ms); });
  row("first token ms (TTFT)", [](const Answer& a) { return fmt::format("{:.1f}", a.ttft_ms()); });
  row("KV cache MB", [](const Answer& a) { return fmt::format("{:.2f}", megabytes(a.kv_bytes)); });
  row("decode tokens/s",
      [](const Answer& a) { return fmt::format("{:.1f}", a.generation.decode_tokens_per_s()); });
  fmt::print("{}", table.to_string());
  fmt::print("\nkept after each stage: {}\n", kept_text(sparse));
  fmt::print("likeliest first token: {}\n", agrees.first_token_equal ? "the same" : "another");
  fmt::print("equal leading tokens:  {} of {}\n", agrees.equal_leading_tokens,
             dense.generation.tokens.size());
  fmt::print("KL of first token:     {:.4g} nats\n", agrees.first_token_kl);
}

Answer answer_with(const Engine& engine, const RunOptions& options, const Policy& policy,
                   const TokenisedPrompt& prompt) {
  AnswerOptions answering{.tokenizer = engine.tokenizer(), .policy = policy};
  answering.max_new_tokens = options.max_new_tokens;
  answering.stop_strings = options.stop_strings;
  answering.progress = options.model.progress_style();
  Session session(engine);
  Sampler sampler(options.sampling);
  return answer_prompt(session, sampler, prompt, answering);
}

// The first pass over a model pays for what every later one finds ready (pages, kernels made at run time),
// and a policy's first pass for kernels of the row counts its stages leave: without a full pass of each, both
// would look slower than they are.
void warm_up(const Engine& engine, const RunOptions& options, const Policy& policy,
             const TokenisedPrompt& prompt) {
  Progress progress("warming up", options.model.progress_style());
  const auto prefill = [&](const Policy& one, double done) {
    PrefillOptions prefill_options;
    prefill_options.progress = [&, done](double share) { progress.update(done + share / 2); };
    Session session(engine);
    session.prefill(prompt.tokens, one, prefill_options);
  };
  prefill(Policy{}, 0.0);
  prefill(policy, 0.5);
}

}  // namespace

int compare(const Engine& engine, const RunOptions& options, const Policy& policy, const std::string& text,
            PruneLog& log) {
  const TokenisedPrompt prompt =
      tokenise_prompt(engine.tokenizer(), text, options.chat, options.parse_special);
  warm_up(engine, options, policy, prompt);
  const Policy dense_policy;
  const Answer dense = answer_with(engine, options, dense_policy, prompt);
  const Answer sparse = answer_with(engine, options, policy, prompt);
  log.add(sparse.stages);
  const Agreement agrees = agreement(dense, sparse);
  if (!options.as_json) {
    fmt::print("== dense ==\n{}\n\n== {} ==\n{}\n\n", dense.text, policy.name, sparse.text);
    print_table(dense, sparse, policy, agrees);
    return 0;
  }
  nlohmann::json report = provenance(engine, options.model);
  report["results"] = {to_json(dense, dense_policy), to_json(sparse, policy)};
  report["agreement"] = {{"first_token_equal", agrees.first_token_equal},
                         {"equal_leading_tokens", agrees.equal_leading_tokens},
                         {"first_token_kl", agrees.first_token_kl}};
  report["speedup_prefill"] = dense.prefill.ms / sparse.prefill.ms;
  report["speedup_ttft"] = dense.ttft_ms() / sparse.ttft_ms();
  fmt::print("{}\n", dump_json(report, 2));
  return 0;
}

}  // namespace winnow::cli
