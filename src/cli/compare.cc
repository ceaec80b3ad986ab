// winnow run --compare: the same prompt read densely and under a policy.
#include <fmt/format.h>

#include <algorithm>

#include "cli/provenance.h"
#include "cli/run.h"
#include "cli/table.h"
#include "measures/distribution.h"

namespace winnow::cli {
namespace {

// How far the policy's answer follows the dense one.
struct Agreement {
  bool first_token_equal = false;
  std::int64_t equal_leading_tokens = 0;
  double first_token_kl = 0;  // KL(dense || policy), nats
};

Agreement agreement(const Answer& dense, const Answer& sparse) {
  const auto &a = dense.generation.tokens, &b = sparse.generation.tokens;
  const auto [differs, unused] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return {.first_token_equal = top1(dense.first_logits) == top1(sparse.first_logits),
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

// "1.00 (first layers) 0.41 0.38 ...": a layer whose chunks were all computed in full says why.
std::string density_text(const std::vector<BlockRecord>& blocks) {
  std::string text;
  for (const BlockRecord& record : blocks) {
    text += fmt::format("{}{:.2f}", text.empty() ? "" : " ", record.density());
    if (record.sparse_chunks == 0) text += fmt::format(" ({})", dense_reason_name(record.gated));
  }
  return text;
}

void print_table(const Answer& dense, const Answer& sparse, const Policy& policy, const Agreement& agrees) {
  Table table({"", "dense", policy.name});
  const auto row = [&](const char* label, const auto& value) {
    table.add_row({label, value(dense), value(sparse)});
  };
  row("prompt tokens", [](const Answer& a) { return fmt::format("{}", a.prompt_tokens); });
  row("tokens kept", [](const Answer& a) { return fmt::format("{}", a.kept_tokens()); });
  row("avgtok", [](const Answer& a) { return fmt::format("{:.3f}", a.prefill.avgtok()); });
  row("density", [](const Answer& a) { return fmt::format("{:.3f}", a.prefill.density()); });
  row("attention work", [](const Answer& a) { return fmt::format("{:.3f}", a.prefill.attn_work()); });
  row("planning ms", [](const Answer& a) { return fmt::format("{:.1f}", a.prefill.plan_ms); });
  row("prefill ms", [](const Answer& a) { return fmt::format("{:.1f}", a.prefill.ms); });
  row("first token ms (TTFT)", [](const Answer& a) { return fmt::format("{:.1f}", a.ttft_ms()); });
  row("KV cache MB", [](const Answer& a) { return fmt::format("{:.2f}", megabytes(a.kv_bytes)); });
  row("decode tokens/s",
      [](const Answer& a) { return fmt::format("{:.1f}", a.generation.decode_tokens_per_s()); });
  fmt::print("{}", table.to_string());
  fmt::print("\nkept after each stage: {}\n", kept_text(sparse));
  if (!sparse.blocks.empty()) fmt::print("density by layer:     {}\n", density_text(sparse.blocks));
  fmt::print("likeliest first token: {}\n", agrees.first_token_equal ? "the same" : "another");
  fmt::print("equal leading tokens:  {} of {}\n", agrees.equal_leading_tokens,
             dense.generation.tokens.size());
  fmt::print("KL of first token:     {:.4g} nats\n", agrees.first_token_kl);
}

Answer answer_with(const Engine& engine, const RunOptions& options, const Policy& policy,
                   const TokenisedPrompt& prompt) {
  AnswerOptions answering{.tokenizer = engine.tokenizer(), .policy = policy};
  answering.max_new_tokens = options.max_new_tokens;
  answering.begins_text = options.chat;
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
  nlohmann::json report = provenance(kCompareSchema, engine, options.model);
  report["results"] = {to_json(dense, dense_policy), to_json(sparse, policy)};
  report["results"][1]["attention_layers"] = layers_json(sparse.blocks);
  report["agreement"] = {{"first_token_equal", agrees.first_token_equal},
                         {"equal_leading_tokens", agrees.equal_leading_tokens},
                         {"first_token_kl", agrees.first_token_kl}};
  report["speedup_prefill"] = dense.prefill.ms / sparse.prefill.ms;
  report["speedup_ttft"] = dense.ttft_ms() / sparse.ttft_ms();
  fmt::print("{}\n", dump_json(report, 2));
  return 0;
}

}  // namespace winnow::cli
