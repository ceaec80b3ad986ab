// winnow policy check: is a policy right, does it fit a model, and what does it keep?
#include <fmt/format.h>

#include <filesystem>
#include <system_error>

#include "backends/backend.h"
#include "cli/command.h"
#include "cli/common.h"
#include "cli/policy_text.h"
#include "cli/schemas.h"
#include "formats/json_text.h"
#include "sparsity/learned_scorer.h"
#include "sparsity/scorer.h"

namespace winnow::cli {
namespace {

constexpr std::size_t kMaxPolicyBytes = 1 << 20;  // as parse_policy()

struct PolicyCheckOptions {
  std::string policy;
  ModelOptions model;
  bool as_json = false;
};

nlohmann::json report(const Policy& policy, const std::vector<std::int64_t>& lengths) {
  nlohmann::json kept = nlohmann::json::array();
  for (const std::int64_t length : lengths) {
    kept.push_back({{"length", length}, {"kept", kept_by_stage(policy, length)}});
  }
  return {{"schema", kPolicyCheckSchema},
          {"winnow", WINNOW_VERSION},
          {"valid", true},
          {"policy", policy_to_json(policy)},
          {"kept_by_stage", kept}};
}

// A learned scorer's file must be there and fit.
void check_scorer(const Policy& policy, const Architecture& arch) {
  const auto backend = make_reference_backend(Precision::kF32);
  check_scorer_model(policy.tokens, arch.shape_hash());
  make_scorer(policy.tokens, arch.model_dim, *backend);
}

// `model` has no layers where none is named.
Policy read_policy(const std::string& text, const ModelFacts& model) {
  std::error_code error;
  const auto type = std::filesystem::status(text, error).type();
  const bool is_stream = text == "-" || type == std::filesystem::file_type::fifo;
  if (!is_stream) return parse_policy(text, model);
  Policy policy = policy_from_json(parse_json_object(read_text(text), text, kMaxPolicyBytes), text);
  if (model.layers > 0) check_policy(policy, model, text);
  return policy;
}

int check(const PolicyCheckOptions& options) {
  Policy policy;
  std::vector<std::int64_t> lengths{1024, 4096, 16384};
  std::string fits = "any model with enough layers (name one with -m to be sure)";
  if (!options.model.model.empty() || !options.model.random_weights.empty()) {
    const Architecture arch = read_architecture(*open_source(options.model));
    policy = read_policy(options.policy, model_facts(arch));
    if (policy.prunes()) check_scorer(policy, arch);
    lengths = example_lengths(arch.context);
    fits = fmt::format("{} ({} layers)", arch.name, arch.layers);
  } else {
    policy = read_policy(options.policy, {});
    if (!policy.model_name.empty()) fits = fmt::format("{} (made for it; not compared)", policy.model_name);
  }
  if (options.as_json) {
    fmt::print("{}\n", dump_json(report(policy, lengths), 2));
    return 0;
  }
  fmt::print("{}: valid\nmodel: {}\nscorer: {}\n", options.policy, fits, scorer_name(policy.tokens.scorer));
  fmt::print("{}", !policy.prunes() ? "no stages: nothing is pruned\n" : stage_table(policy, lengths));
  fmt::print("{}", attention_text(policy.attention));
  return 0;
}

constexpr const char* kFooter = R"(Examples:
  winnow policy check policy.json
  winnow policy check policy.json -m model.gguf
  winnow policy check keep08:recency+pooled=0.9 -m smollm2-135m)";

}  // namespace

void add_policy(CLI::App& app, Command& command) {
  auto options = std::make_shared<PolicyCheckOptions>();
  CLI::App* policy = app.add_subcommand("policy", "Policies: what to leave out");
  policy->require_subcommand(1);
  policy->footer(kFooter);
  CLI::App* sub = policy->add_subcommand("check", "Check a policy; with a model, whether it fits");
  sub->add_option(
         "POLICY", options->policy,
         "A policy file (JSON; - for stdin), or what --policy of winnow run takes; presets need a model")
      ->required();
  add_model_choice(*sub, options->model);
  sub->add_flag("--json", options->as_json, "As JSON");
  sub->footer(kFooter);
  sub->callback([options, &command] { command = [options] { return check(*options); }; });
}

}  // namespace winnow::cli
