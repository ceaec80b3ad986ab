// winnow run: reads a prompt and answers it.
#include "cli/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "cli/command.h"
#include "cli/provenance.h"
#include "cli/ranks.h"
#include "core/error.h"
#include "runtime/answer_text.h"
#include "runtime/kv_choice.h"
#include "sparsity/policy_warnings.h"

namespace winnow::cli {
namespace {

void check_usage(const RunOptions& options) {
  if (options.compare && !options.policy)
    throw UsageError("--compare needs a --policy to compare with dense");
  if (options.positions && !options.as_json) throw UsageError("--positions needs --json");
  if (options.prompt || options.file) return;
  if (::isatty(STDIN_FILENO) == 0)
    throw UsageError("no prompt: give -p TEXT, -f FILE, or -f - to read stdin");
  if (options.compare || options.as_json) throw UsageError("--compare and --json need a prompt (-p or -f)");
}

// The document, then the question about it.
std::string prompt_text(const RunOptions& options) {
  std::string text = options.file ? read_text(*options.file) : "";
  if (options.file && text.empty()) fail(ErrorCode::kBadArgument, "{}: is empty", *options.file);
  if (options.file && options.prompt) text += text.ends_with('\n') ? "\n" : "\n\n";
  if (options.prompt) text += *options.prompt;
  if (text.empty()) fail(ErrorCode::kBadArgument, "the prompt is empty");
  return text;
}

int answer_once(const Engine& engine, const RunOptions& options, const Policy& policy,
                const std::string& text, PruneLog& log) {
  const TokenisedPrompt prompt =
      tokenise_prompt(engine.tokenizer(), text, options.chat, options.parse_special);
  AnswerOptions answering{.tokenizer = engine.tokenizer(), .policy = policy};
  answering.max_new_tokens = options.max_new_tokens;
  answering.begins_text = options.chat;
  answering.stop_strings = options.stop_strings;
  answering.progress = options.model.progress_style();
  answering.positions = options.positions;
  if (!options.as_json) {
    answering.on_text = [](const std::string& part) {
      fmt::print("{}", part);
      std::fflush(stdout);
    };
  }
  Session session(engine);
  Sampler sampler(options.sampling);
  const Answer answer = answer_prompt(session, sampler, prompt, answering);
  log.add(answer.stages);
  if (options.as_json) {
    nlohmann::json report = provenance(kRunSchema, engine, options.model);
    report.update(to_json(answer, policy));
    report["attention_layers"] = layers_json(answer.blocks);
    if (options.positions) report["pieces"] = token_texts(engine.tokenizer(), prompt.tokens);
    fmt::print("{}\n", dump_json(report, 2));
  } else {
    fmt::print("\n");
    std::fflush(stdout);
  }
  fmt::print(stderr, "{}\n", summary(answer));
  const bool left_out = answer.kept_tokens() < answer.prompt_tokens || answer.prefill.density() < 1;
  const std::string warning = left_out ? length_warning(policy, answer.prompt_tokens) : "";
  if (!warning.empty()) fmt::print(stderr, "winnow: {}\n", warning);
  return 0;
}

int answer_or_converse(const Engine& engine, const RunOptions& options, const Policy& policy,
                       const std::optional<std::string>& text, PruneLog& log) {
  if (!text) return converse(engine, options, policy, log);
  if (options.compare) return compare(engine, options, policy, *text, log);
  return answer_once(engine, options, policy, *text, log);
}

int run(RunOptions options) {
  check_usage(options);
  options.sampling.seed = options.model.seed;
  if (options.file && same_file(*options.file, options.prune_log)) {
    fail(ErrorCode::kBadArgument, "{}: is both the prompt and the prune log; name another log file",
         options.prune_log);
  }
  const bool has_prompt = options.prompt || options.file;
  const auto text = has_prompt ? std::optional(prompt_text(options)) : std::nullopt;
  PruneLog log(options.prune_log);
  const auto engine = open_engine(options.model);
  const Policy policy = parse_policy(options.policy.value_or("dense"), engine->facts(), engine->kv_type());
  for (const std::string& warning : policy_warnings(policy)) fmt::print(stderr, "winnow: {}\n", warning);
  const int code = answer_or_converse(*engine, options, policy, text, log);
  log.write();
  return code;
}

constexpr const char* kFooter = R"(Examples:
  winnow run -m smollm2-135m -p "Once upon a time" -n 50
  winnow run -m smollm2-135m --chat -f report.txt -p "What was decided?" --policy keep08
  git log | winnow run -m smollm2-135m --chat -f - -p "Summarise these changes."
  winnow run -m smollm2-135m --chat -f report.txt --policy keep08 --compare
  winnow run -m smollm2-135m --chat -f report.txt --policy pooled=0.95 --compare
  winnow run -m smollm2-135m                       (a conversation; /exit or Ctrl-D ends it)

POLICY is dense, keep09, keep08, keep07, auto (the policy that was calibrated for the model) or a policy file, each
with an optional :SCORER[=FILE] and an optional +SELECTOR[=THRESHOLD] (pooled, antidiagonal, vertical_slash, local,
exact_mass, threshold), which skips blocks of attention: keep08:recency+pooled=0.9. pooled=0.9 alone keeps every token.)";

}  // namespace

TokenisedPrompt tokenise_prompt(const Tokenizer& tokenizer, const std::string& text, bool chat,
                                bool parse_special) {
  if (chat && !tokenizer.has_chat_template()) {
    fail(ErrorCode::kBadArgument, "--chat: this model has no chat template; leave --chat out");
  }
  return tokenise([&] {
    return chat ? tokenizer.encode_chat({{"user", text}}, /*add_generation_prompt=*/true)
                : tokenizer.encode(text, parse_special);
  });
}

void add_run(CLI::App& app, Command& command) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* sub = app.add_subcommand("run", "Read a prompt and answer it; without one, a conversation");
  add_model_options(*sub, options->model);
  add_kv_option(*sub, options->model);
  add_rank_options(*sub, options->model);
  sub->add_option("-p,--prompt", options->prompt,
                  "The prompt; with -f it follows the file, after an empty line");
  sub->add_option("-f,--file", options->file, "Read the prompt from a file; - is stdin");
  sub->add_flag("--chat", options->chat, "The prompt is a user's message in the model's chat template");
  sub->add_flag("--parse-special", options->parse_special,
                "Control tokens written in the prompt count as such");
  sub->add_option("-n,--max-tokens", options->max_new_tokens, "Most tokens to answer with")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  sub->add_option("--policy", options->policy, "What to leave out of the prefill (default: dense, nothing)");
  sub->add_flag("--compare", options->compare, "Answer densely as well and show what differs");
  add_sampling_options(*sub, options->sampling);
  sub->add_option("--stop", options->stop_strings, "Text that ends the answer; may be given several times")
      ->allow_extra_args(false);
  sub->add_flag("--json", options->as_json, "One JSON object instead of the text");
  sub->add_flag("--positions", options->positions,
                "With --json: the text of each token, and which tokens each stage kept (for winnow report)");
  sub->add_option("--prune-log", options->prune_log, "Write a JSON line for every stage")->type_name("FILE");
  sub->footer(kFooter);
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace winnow::cli
