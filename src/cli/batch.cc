// winnow batch: answers every prompt of a file, resumable.
#include <fmt/format.h>

#include "cli/answer.h"
#include "cli/batch_file.h"
#include "cli/command.h"
#include "cli/common.h"
#include "cli/provenance.h"
#include "cli/ranks.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "runtime/kv_choice.h"

namespace winnow::cli {
namespace {

struct BatchOptions {
  ModelOptions model;
  SamplerOptions sampling;
  std::string prompts, output, policy = "dense";
  std::vector<std::string> stop_strings;
  std::int64_t max_new_tokens = 128;
  bool chat = false;
};

// What decides an answer beside its prompt. The model goes by its content, the policy by what it says, not by
// their names; threads and device are left out, as a batch may well go on elsewhere.
std::string settings_text(const BatchOptions& options, const Engine& engine, const Policy& policy) {
  nlohmann::json settings = {engine.source().content_hash(),
                             policy_to_json(policy)["tokens"],
                             options.model.precision,
                             options.max_new_tokens,
                             options.chat,
                             options.stop_strings};
  // Left out where nothing is skipped, so that files of answers from before there was a choice go on.
  if (!policy.attention.dense()) settings.push_back(policy_to_json(policy)["attention"]);
  if (engine.kv_type() != KvType::kSame) settings.push_back(kv_type_name(engine.kv_type()));
  // Answers from before learned scores were pooled are of other tokens.
  if (policy.tokens.scorer == ScorerKind::kLearned) settings.push_back(policy_to_json(policy)["version"]);
  const SamplerOptions& sampling = options.sampling;
  settings.push_back({sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed});
  return dump_json(settings);
}

TokenisedPrompt tokenise_prompt(const Tokenizer& tokenizer, const BatchPrompt& prompt, bool chat) {
  if (prompt.messages.empty() && prompt.prompt.empty()) fail(ErrorCode::kBadArgument, "the prompt is empty");
  return tokenise([&] {
    if (!prompt.messages.empty())
      return tokenizer.encode_chat(prompt.messages, /*add_generation_prompt=*/true);
    if (chat) return tokenizer.encode_chat({{"user", prompt.prompt}}, /*add_generation_prompt=*/true);
    return tokenizer.encode(prompt.prompt, /*parse_special=*/false);
  });
}

nlohmann::json answer_line(const Engine& engine, const BatchOptions& options, const Policy& policy,
                           const BatchPrompt& prompt) {
  nlohmann::json line = {{"index", prompt.index}, {"prompt_hash", prompt.hash}};
  if (!prompt.id.is_null()) line["id"] = prompt.id;
  try {
    AnswerOptions answering{.tokenizer = engine.tokenizer(), .policy = policy};
    answering.max_new_tokens = prompt.max_tokens.value_or(options.max_new_tokens);
    answering.begins_text = options.chat || !prompt.messages.empty();
    answering.stop_strings = options.stop_strings;
    Session session(engine);
    Sampler sampler(options.sampling);  // anew for each prompt: an answer does not depend on those before it
    const TokenisedPrompt tokens = tokenise_prompt(engine.tokenizer(), prompt, options.chat);
    line.update(to_json(answer_prompt(session, sampler, tokens, answering), policy));
  } catch (const Error& error) {
    // One prompt that is too long must not cost the others.
    line["error"] = error.what();
  }
  return line;
}

// Prompts that could never be answered are refused before the first one is.
void check_chat(const Engine& engine, const BatchOptions& options, const std::vector<BatchPrompt>& prompts) {
  if (engine.tokenizer().has_chat_template()) return;
  if (options.chat)
    fail(ErrorCode::kBadArgument, "--chat: this model has no chat template; leave --chat out");
  for (const BatchPrompt& prompt : prompts) {
    if (prompt.messages.empty()) continue;
    fail(ErrorCode::kBadArgument, "{}: prompt {} has messages, but this model has no chat template",
         options.prompts, prompt.index);
  }
}

int batch(BatchOptions options) {
  options.sampling.seed = options.model.seed;
  if (same_file(options.prompts, options.output)) {
    fail(ErrorCode::kBadArgument, "{}: is both the prompts and the output; name another output file",
         options.output);
  }
  std::vector<BatchPrompt> prompts =
      read_prompts(options.prompts);  // its faults show before the model is loaded
  check_writable(options.output);
  const auto engine = open_engine(options.model);
  const Policy policy = parse_policy(options.policy, engine->facts(), engine->kv_type());
  hash_prompts(prompts, settings_text(options, *engine, policy));
  check_chat(*engine, options, prompts);
  AnswerFile file(options.output, prompts);
  if (file.kept() + file.dropped() > 0) {
    fmt::print(
        stderr,
        "{}: {} answers kept, {} lines dropped (failed, half-written or of another prompt or setting)\n",
        options.output, file.kept(), file.dropped());
    if (!file.saved_as().empty()) {
      fmt::print(stderr, "{}: the answers to other prompts or under other settings are in {}\n",
                 options.output, file.saved_as());
    }
  }
  const nlohmann::json origin = provenance(kBatchSchema, *engine, options.model);
  Progress progress("answering", options.model.progress_style());
  std::int64_t done = file.kept(), failed = 0;
  const auto count = static_cast<std::int64_t>(prompts.size());
  for (const BatchPrompt& prompt : prompts) {
    if (file.answered(prompt)) continue;
    progress.update(static_cast<double>(done) / static_cast<double>(count),
                    fmt::format("{} of {}", done, count));
    nlohmann::json line = answer_line(*engine, options, policy, prompt);
    failed += line.contains("error") ? 1 : 0;
    line["schema"] = kBatchSchema;
    line["run"] = origin;
    file.append(line);
    ++done;
  }
  progress.finish();
  fmt::print(stderr, "{}: {} prompts, {} already answered, {} failed\n", options.output, count, file.kept(),
             failed);
  return failed == 0 ? 0 : 1;
}

constexpr const char* kFooter = R"(Each line of PROMPTS is a JSON object:
  {"id": "a", "prompt": "Once upon a time", "max_tokens": 50}
  {"id": "b", "messages": [{"role": "user", "content": "Who are you?"}]}
Each answer is appended to the output as soon as it is made. Started again with the same files and settings, only what
is missing or failed is answered.

Example:
  winnow batch -m smollm2-135m prompts.jsonl -o answers.jsonl --policy keep08)";

}  // namespace

void add_batch(CLI::App& app, Command& command) {
  auto options = std::make_shared<BatchOptions>();
  CLI::App* sub = app.add_subcommand("batch", "Answer every prompt of a JSON lines file");
  add_model_options(*sub, options->model);
  add_kv_option(*sub, options->model);
  add_rank_options(*sub, options->model);
  sub->add_option("PROMPTS", options->prompts, "JSON lines: prompts")->required();
  sub->add_option("-o,--output", options->output, "JSON lines: answers")->required();
  sub->add_option("--policy", options->policy, "What to leave out of the prefill; as in winnow run --help")
      ->capture_default_str();
  sub->add_flag("--chat", options->chat, "Each \"prompt\" is a user's message in the model's chat template");
  sub->add_option("-n,--max-tokens", options->max_new_tokens, "Most tokens to answer with")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  add_sampling_options(*sub, options->sampling);
  sub->add_option("--stop", options->stop_strings, "Text that ends an answer; may be given several times")
      ->allow_extra_args(false);
  sub->footer(kFooter);
  sub->callback([options, &command] { command = [options] { return batch(*options); }; });
}

}  // namespace winnow::cli
