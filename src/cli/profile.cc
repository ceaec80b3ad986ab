// winnow profile: how long prompts take under each policy.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <list>
#include <utility>

#include "cli/command.h"
#include "cli/common.h"
#include "cli/profile_case.h"
#include "cli/profile_input.h"
#include "cli/provenance.h"
#include "cli/ranks.h"
#include "cli/table.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "runtime/kv_choice.h"

namespace winnow::cli {
namespace {

using nlohmann::json;

struct ProfileOptions {
  ModelOptions model;
  std::vector<std::int64_t> lengths{1024, 2048, 4096};
  std::vector<std::string> policies{"dense", "keep09", "keep08", "keep07"};
  std::int64_t new_tokens = 1;  // 1 without decoding: the first token is the prefill's
  std::int64_t repeat = 3;
  std::string text_file, output;
  std::string mode;  // "prefill" or "end2end"
};

// A long run's progress: work is counted in prompt tokens, prefills dominate.
class ProfileProgress {
 public:
  ProfileProgress(ProgressStyle style, double total_tokens)
      : progress_("profiling", style), total_(total_tokens) {}

  // For one prefill; call the result with its share done.
  ProfileCase::OnProgress next(const ProfileCase& profiled) {
    done_ += current_;
    current_ = static_cast<double>(profiled.length());
    return [this, note = fmt::format("{} at {}", profiled.policy().name, profiled.length())](double share) {
      progress_.update((done_ + share * current_) / total_, note);
    };
  }

 private:
  Progress progress_;
  double total_, done_ = 0, current_ = 0;
};

class Profile {
 public:
  explicit Profile(const ProfileOptions& options) : options_(options), engine_(open_engine(options.model)) {
    for (const std::string& policy : options.policies)
      policies_.push_back(parse_policy(policy, engine_->facts(), engine_->kv_type()));
    choose_lengths();
    input_ = make_profile_input(*engine_, options.text_file, lengths_.back(), options.model.seed);
  }

  void run() {
    double total = 0;
    for (const std::int64_t length : lengths_) {
      total += static_cast<double>(length * (options_.repeat + 1)) * static_cast<double>(policies_.size());
    }
    ProfileProgress progress(options_.model.progress_style(), total);
    for (const std::int64_t length : lengths_) run_length(length, progress);
    if (cases_.empty()) fail(ErrorCode::kBadArgument, "nothing could be measured: {}", skipped_.dump());
  }

  json report() const {
    json report = provenance(kProfileSchema, *engine_, options_.model);
    report["command"] = "profile " + options_.mode;
    report["text"] = input_.description;
    report["repeat"] = options_.repeat;
    report["policies"] = json::object();
    for (const Policy& policy : policies_) report["policies"][policy.name] = policy_to_json(policy);
    report["results"] = json::array();
    for (const ProfileCase& one : cases_) report["results"].push_back(one.to_json(dense_of(one.length())));
    report["skipped"] = skipped_;
    return report;
  }

  void print_table() const {
    if (engine_->random()) fmt::print("random weights: {}\n", engine_->arch().name);
    Table table({"policy", "length", "prefill ms", "TTFT ms", "decode ms", "tokens/s", "total ms", "speedup",
                 "total", "KV MB", "avgtok", "density"});
    for (const ProfileCase& one : cases_) add_row(table, one);
    fmt::print("{}", table.to_string());
    const auto most =
        std::max_element(cases_.begin(), cases_.end(), [](const ProfileCase& a, const ProfileCase& b) {
          return a.estimated_memory_bytes() < b.estimated_memory_bytes();
        });
    fmt::print("memory: {:.0f} MB estimated, {:.0f} MB at the peak\n",
               megabytes(most->estimated_memory_bytes()), megabytes(cases_.back().peak_memory_bytes()));
  }

 private:
  void skip(std::int64_t length, const json& policy, const std::string& reason) {
    fmt::print(stderr, "skipped: length {}{}: {}\n", length,
               policy.is_null() ? "" : ", " + policy.get<std::string>(), reason);
    skipped_.push_back({{"length", length}, {"policy", policy}, {"reason", reason}});
  }

  void choose_lengths() {
    lengths_ = options_.lengths;
    std::sort(lengths_.begin(), lengths_.end());
    lengths_.erase(std::unique(lengths_.begin(), lengths_.end()), lengths_.end());
    const std::int64_t context = engine_->arch().context;
    std::erase_if(lengths_, [&](std::int64_t length) {
      const std::int64_t needed = length + options_.new_tokens - 1;  // the last new token is not read
      if (needed <= context) return false;
      skip(length, nullptr, fmt::format("needs {} tokens, the model's context is {}", needed, context));
      return true;
    });
    if (lengths_.empty()) {
      fail(ErrorCode::kBadArgument, "no length fits {}: its context is {} tokens", engine_->arch().name,
           context);
    }
  }

  // Samples of the policies take turns, so that a slow minute of the machine does not fall on one of them.
  void run_length(std::int64_t length, ProfileProgress& progress) {
    std::vector<ProfileCase*> measured;
    for (const Policy& policy : policies_) {
      const auto tokens = std::span<const TokenId>(input_.tokens).first(static_cast<std::size_t>(length));
      cases_.emplace_back(*engine_, policy, tokens, options_.new_tokens);
      if (warm_up(cases_.back(), progress)) {
        measured.push_back(&cases_.back());
      } else {
        cases_.pop_back();
      }
    }
    for (std::int64_t i = 0; i < options_.repeat; ++i) {
      for (ProfileCase* one : measured) one->measure(progress.next(*one));
    }
  }

  // False: there is not enough memory for it.
  bool warm_up(ProfileCase& one, ProfileProgress& progress) {
    try {
      one.warm_up(progress.next(one));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kOutOfMemory) throw;
      skip(one.length(), one.policy().name, error.what());
      return false;
    }
    if (!std::exchange(warm_, true)) one.set_cold();
    return true;
  }

  const ProfileCase* dense_of(std::int64_t length) const {
    const auto found = std::find_if(cases_.begin(), cases_.end(), [&](const ProfileCase& one) {
      return one.length() == length && one.policy().dense();
    });
    return found == cases_.end() ? nullptr : &*found;
  }

  void add_row(Table& table, const ProfileCase& one) const {
    const ProfileCase* dense = dense_of(one.length());
    const auto speedup = [&](double reference, double own) {
      return dense == nullptr || own <= 0 ? "-" : fmt::format("{:.2f}x", reference / own);
    };
    const bool decoded = one.decode_ms() > 0;
    table.add_row({one.policy().name, fmt::format("{}", one.length()),
                   fmt::format("{:.1f}", one.prefill_ms()), fmt::format("{:.1f}", one.ttft_ms()),
                   decoded ? fmt::format("{:.1f}", one.decode_ms()) : "-",
                   decoded ? fmt::format("{:.1f}", one.decode_tokens_per_s()) : "-",
                   fmt::format("{:.1f}", one.total_ms()),
                   speedup(dense == nullptr ? 0 : dense->prefill_ms(), one.prefill_ms()),
                   speedup(dense == nullptr ? 0 : dense->total_ms(), one.total_ms()),
                   fmt::format("{:.1f}", megabytes(one.kv_bytes())), fmt::format("{:.3f}", one.avgtok()),
                   fmt::format("{:.3f}", one.density())});
  }

  const ProfileOptions& options_;
  std::unique_ptr<Engine> engine_;
  std::vector<Policy> policies_;
  std::vector<std::int64_t> lengths_;  // ascending: the peak memory noted is the process's so far
  ProfileInput input_;
  std::list<ProfileCase> cases_;  // by length, then policy; addresses stay
  json skipped_ = json::array();
  bool warm_ = false;
};

int profile(const ProfileOptions& options) {
  if (!options.output.empty()) check_writable(options.output);
  Profile profile(options);
  profile.run();
  profile.print_table();  // first: a file that cannot be written any more must not cost the result
  std::fflush(stdout);
  if (!options.output.empty()) write_file_atomically(options.output, dump_json(profile.report(), 2) + "\n");
  return 0;
}

constexpr const char* kFooter =
    R"(Times are medians over --repeat runs after one warm-up; runs of the policies take turns. TTFT adds tokenisation
and sampling to the prefill; decode is the new tokens after the first. Speed-ups are against dense in the same run.
peak_memory_bytes in the JSON is the process's peak so far. density is the share of attention computed among the tokens
that are left. POLICY as in winnow run --help: dense, keep08:recency, FILE.json, pooled=0.95, keep08+local, ...

Examples:
  winnow profile prefill -m smollm2-135m --lengths 1024,4096 --policies dense,keep08 -o prefill.json
  winnow profile prefill -m smollm2-135m --lengths 4096 --policies dense,pooled=0.9,keep08+pooled=0.9
  winnow profile end2end -m smollm2-135m --lengths 4096 --new-tokens 128 -o end2end.json
  winnow profile prefill --random-weights qwen2-0.5b --lengths 2048)";

void add_mode(CLI::App& profile_app, const char* mode, const char* description, Command& command) {
  auto options = std::make_shared<ProfileOptions>();
  options->mode = mode;
  CLI::App* sub = profile_app.add_subcommand(mode, description);
  add_model_options(*sub, options->model);
  add_kv_option(*sub, options->model);
  add_rank_options(*sub, options->model);
  sub->add_option("--lengths", options->lengths, "Prompt lengths in tokens")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  sub->add_option("--policies", options->policies, "Policies to measure")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--repeat", options->repeat, "Runs of each")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  sub->add_option("-f,--file", options->text_file,
                  "Text to read, repeated to the length; default: a built-in one");
  sub->add_option("-o,--output", options->output, "Write the result as JSON")->type_name("FILE");
  if (options->mode == "end2end") options->new_tokens = 128;
  sub->add_option("--new-tokens", options->new_tokens, "Tokens to answer with; the first is the prefill's")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
      ->capture_default_str();
  sub->footer(kFooter);
  sub->callback([options, &command] { command = [options] { return profile(*options); }; });
}

}  // namespace

void add_profile(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("profile", "How long prompts take under each policy");
  sub->require_subcommand(1);
  sub->footer(kFooter);
  add_mode(*sub, "prefill", "The time to read a prompt", command);
  add_mode(*sub, "end2end", "The time to read a prompt and answer it", command);
}

}  // namespace winnow::cli
