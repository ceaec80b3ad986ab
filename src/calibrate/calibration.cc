#include "calibrate/calibration.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>

#include "calibrate/candidates.h"
#include "calibrate/prediction.h"
#include "calibrate/retrieval_signal.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "eval/niah_tasks.h"
#include "eval/question_workload.h"
#include "eval/summary.h"
#include "eval/window_workload.h"
#include "sparsity/attention_json.h"
#include "sparsity/selector.h"

namespace winnow {
namespace {

using nlohmann::json;

// Items that the ladders are measured on, before combinations meet the whole search set.
constexpr std::int64_t kCoarseWindows = 4, kCoarseNeedles = 8;
constexpr std::int64_t kCurveWindows = 3, kSignalPrompts = 8, kSecondQuestions = 20;
// Combinations measured on the search set at a time, and how often the budget is tightened before giving up.
constexpr std::size_t kFinalists = 4;
constexpr int kRounds = 3;
// What is measured on the search set must stay this far below the budget: chosen policies look better than
// they are.
constexpr double kSearchMargin = 0.9;
constexpr double kDefaultNiahShare = 0.95;

std::string sha256(std::span<const EvalText> texts) {
  std::string all;
  for (const EvalText& text : texts) all += text.content;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (EVP_Digest(all.data(), all.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1) {
    fail(ErrorCode::kUnsupported, "the cryptographic library has no SHA-256");
  }
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

EvalPolicy named(std::string name, Policy policy) {
  policy.name = name;
  return {.name = std::move(name), .policy = std::move(policy), .eviction = {}};
}

std::string stages_text(const TokenPolicy& tokens) {
  std::string text;
  for (const Stage& stage : tokens.stages) {
    text += fmt::format("{}{}:{:.2f}", text.empty() ? "" : ",", stage.layer, stage.keep);
  }
  return text;
}

AttentionPolicy block_selection() {
  AttentionPolicy attention = attention_policy(SelectorKind::kPooled);
  attention.rule.criterion = BlockCriterion::kMaximum;
  attention.rule.q_block = 32;
  attention.rule.k_block = 16;
  attention.rule.pool = 16;
  attention.rule.outliers = 2;
  attention.rule.query_stride = 8;
  attention.dense_last_tokens = 32;
  return attention;
}

}  // namespace

// One run: what is known so far, and the sets it is measured on.
class Calibration::Search {
 public:
  Search(const Engine& engine, const CalibrationSettings& settings, const CalibrationOptions& options)
      : engine_(engine),
        settings_(settings),
        options_(options),
        encoder_(engine.tokenizer(), /*plain=*/false),
        essays_(settings.texts),
        niah_(make_niah(encoder_, essays_)),
        second_question_(make_second_question(encoder_, essays_)) {
    TextWindows all = cut_windows(encoder_, settings.texts, settings.length,
                                  settings.search_windows + settings.held_out_windows);
    if (all.overlap) {
      fail(ErrorCode::kBadArgument,
           "the texts are too short for {} windows of {} tokens that do not overlap: give more text, a "
           "smaller "
           "--length, or fewer --search-windows and --held-out-windows",
           settings.search_windows + settings.held_out_windows, settings.length);
    }
    // Windows take turns among the texts; within each text, the two sets take turns: both see every text from
    // beginning to end.
    const std::int64_t count = std::ssize(all.windows), texts = std::ssize(settings.texts);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t turn = i / texts, wanted = settings.search_windows;
      const bool search = (turn + 1) * wanted / count > turn * wanted / count;
      (search ? search_windows_ : held_out_windows_).push_back(std::move(all.windows[i]));
    }
    if (search_windows_.empty() || held_out_windows_.empty()) {
      fail(ErrorCode::kBadArgument,
           "--search-windows {} and --held-out-windows {}: with {} texts there must be windows of both "
           "kinds; ask for "
           "more",
           settings.search_windows, settings.held_out_windows, texts);
    }
    niah_->check_length(settings.length);
    second_question_->check_length(settings.length);
  }

  std::optional<CalibrationResult> run() {
    if (!load_state() && !measure_model()) return std::nullopt;
    result_.recall = recall_;
    if (!measure_ladders()) return std::nullopt;
    for (int round = 0; round < kRounds; ++round) {
      if (!measure_finalists()) return std::nullopt;
      if (!measure_held_out()) return std::nullopt;
      if (result_.met) break;
      strictness_ *= 0.75;
    }
    fill_policy();
    return std::move(result_);
  }

 private:
  struct Sets {
    std::int64_t windows, needles;
    bool held_out;
  };

  void progress(double share, const std::string& what) const {
    if (options_.progress) options_.progress(share, what);
  }
  // A step of the whole, as the measuring functions tell it.
  std::function<void(double)> step(double from, double to, const char* what) const {
    return [this, from, to, what](double share) { progress(from + (to - from) * share, what); };
  }

  // What the state file says of this model and these settings.
  json identity() const {
    return {{"model", engine_.source().content_hash()},
            {"texts", texts_json(settings_.texts)},
            {"length", settings_.length},
            {"seed", settings_.seed},
            {"windows", {settings_.search_windows, settings_.held_out_windows}},
            {"needles", settings_.search_needles},
            {"attention", attention_to_json(block_selection())},
            {"winnow", WINNOW_VERSION},
            {"precision", static_cast<int>(engine_.backend().precision())}};
  }
  bool load_state() {
    if (options_.state_file.empty() || !std::filesystem::exists(options_.state_file)) return false;
    std::ifstream file(options_.state_file);
    const json state = json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (!state.is_object() || state.value("identity", json()) != identity()) return false;
    try {
      recall_ = state.at("recall").get<std::vector<double>>();
      curves_ = block_curves_from_json(state.at("curves"));
    } catch (const json::exception&) {
      return false;  // of another version: measured again
    } catch (const Error&) {
      return false;
    }
    return true;
  }
  void save_state() const {
    if (options_.state_file.empty()) return;
    const json state = {{"identity", identity()}, {"recall", recall_}, {"curves", to_json(curves_)}};
    write_file_atomically(options_.state_file, state.dump() + "\n");
  }

  bool measure_model() {
    std::vector<NeedlePrompt> prompts;
    for (std::int64_t i = 0; i < std::min(kSignalPrompts, settings_.search_needles); ++i) {
      const Question question = niah_->make(settings_.length, i, search_seed());
      prompts.push_back({encoder_.first_turn(question.prompt), question.references.front()});
    }
    recall_ = measure_retrieval_signal(engine_, prompts, {}, step(0, 0.04, "where needles are seen"),
                                       options_.cancelled);
    if (recall_.empty()) return false;
    const std::int64_t windows = std::min(kCurveWindows, std::ssize(search_windows_));
    const CurveSettings curves{.attention = block_selection(),
                               .windows = {search_windows_.begin(), search_windows_.begin() + windows}};
    if (!measure_block_curves(engine_, curves, step(0.04, 0.2, "errors by head"), options_.cancelled,
                              curves_)) {
      return false;
    }
    save_state();
    return true;
  }

  std::uint64_t search_seed() const { return 2 * settings_.seed; }
  std::uint64_t held_out_seed() const { return 2 * settings_.seed + 1; }

  std::vector<std::unique_ptr<Workload>> workloads(const Sets& sets, bool second_question) const {
    std::vector<std::unique_ptr<Workload>> workloads;
    TextWindows windows{sets.held_out ? held_out_windows_ : search_windows_};
    windows.windows.resize(
        std::min<std::size_t>(windows.windows.size(), static_cast<std::size_t>(sets.windows)));
    json identity = {texts_json(settings_.texts), settings_.search_windows, settings_.held_out_windows,
                     sets.held_out ? "held out" : "search"};
    workloads.push_back(make_window_workload(engine_, std::move(windows),
                                             {.length = settings_.length, .texts = std::move(identity)}));
    const QuestionSettings questions{settings_.length, sets.needles,
                                     sets.held_out ? held_out_seed() : search_seed()};
    workloads.push_back(make_question_workload(engine_, encoder_, *niah_, questions));
    if (second_question) {
      QuestionSettings second = questions;
      second.count = std::min(kSecondQuestions, sets.needles);
      workloads.push_back(make_question_workload(engine_, encoder_, *second_question_, second));
    }
    return workloads;
  }

  // The policies, dense first. Empty when cancelled.
  std::vector<Measured> measure(std::vector<EvalPolicy> policies, const Sets& sets, double from, double to,
                                const char* what, bool second_question = false) {
    policies.insert(policies.begin(), named("dense", {}));
    RunnerOptions runner;
    runner.journal = options_.journal;
    runner.cancelled = options_.cancelled;
    runner.progress = [&](double share, const std::string&) { progress(from + (to - from) * share, what); };
    const RunResult run = run_evaluation(engine_, policies, workloads(sets, second_question), runner);
    if (!run.finished()) return {};
    std::vector<Measured> all;
    for (std::size_t p = 0; p < policies.size(); ++p) {
      Measured measured = measure_samples(policies[p], run.samples[0][p], run.samples[1][p],
                                          run.samples[0][0], run.samples[1][0]);
      if (second_question) measured.second_question = estimate(run.samples[2][p], "score")->value;
      measured.held_out = sets.held_out;
      all.push_back(std::move(measured));
    }
    result_.frontier.insert(result_.frontier.end(), all.begin(), all.end());
    return all;
  }

  bool measure_ladders() {
    std::vector<EvalPolicy> policies;
    for (const double density : density_candidates()) {
      Policy policy;
      policy.attention = block_selection();
      policy.attention.thresholds = choose_thresholds(curves_, density).thresholds;
      policies.push_back(named(fmt::format("blocks {:.2f}", density), policy));
    }
    const std::size_t block_policies = policies.size();
    for (const TokenPolicy& tokens : token_candidates(find_stage_places(recall_), engine_.arch().layers)) {
      Policy policy;
      policy.tokens = tokens;
      policies.push_back(named("stages " + stages_text(tokens), policy));
    }
    std::vector<Measured> measured = measure(
        std::move(policies), {kCoarseWindows, std::min(kCoarseNeedles, settings_.search_needles), false}, 0.2,
        0.5, "one mechanism at a time");
    if (measured.empty()) return false;
    dense_ = measured.front();
    blocks_.assign(measured.begin() + 1, measured.begin() + 1 + static_cast<std::ptrdiff_t>(block_policies));
    tokens_.assign(measured.begin() + 1 + static_cast<std::ptrdiff_t>(block_policies), measured.end());
    return true;
  }

  struct Combination {
    EvalPolicy policy;
    CombinationModel::Prediction predicted;
  };

  // Every block density (and none) with every token policy (and none), as predicted.
  std::vector<Combination> combinations() const {
    const CombinationModel model(dense_, blocks_);
    std::vector<Measured> tokens{dense_}, blocks{dense_};
    tokens.insert(tokens.end(), tokens_.begin(), tokens_.end());
    blocks.insert(blocks.end(), blocks_.begin(), blocks_.end());
    std::vector<Combination> all;
    for (const Measured& t : tokens) {
      for (const Measured& b : blocks) {
        Policy policy;
        policy.tokens = t.policy.policy.tokens;
        policy.attention = b.policy.policy.attention;
        if (policy.dense()) continue;
        const std::string name = !policy.prunes()           ? b.policy.name
                                 : policy.attention.dense() ? t.policy.name
                                                            : t.policy.name + " + " + b.policy.name;
        all.push_back({named(name, policy), model.combine(t, b)});
      }
    }
    return all;
  }

  // How far a policy overshoots its budget, as a factor: at most 1 is within. `strictness` scales what may be
  // lost; `dense_niah` is what dense finds of the same needles.
  double overshoot(double kl, double dce, double niah, double speedup, double dense_niah,
                   double strictness) const {
    const QualityBudget& budget = settings_.budget;
    double worst = 0;
    if (budget.max_kl) worst = std::max(worst, kl / (strictness * *budget.max_kl));
    if (budget.max_dce) worst = std::max(worst, dce / (strictness * *budget.max_dce));
    if (budget.min_speedup) worst = std::max(worst, *budget.min_speedup / speedup);
    const double floor = budget.min_niah.value_or(kDefaultNiahShare * dense_niah);
    const double may_lose = std::max(1 - floor, 1e-3);
    return std::max(worst, (1 - niah) / may_lose);
  }
  double overshoot(const Measured& m, const Measured& dense, double strictness) const {
    return overshoot(m.kl, m.dce, m.niah, m.speedup, dense.niah, strictness);
  }
  // Higher is better among the policies within the budget.
  double merit(double kl, double speedup) const {
    const QualityBudget& budget = settings_.budget;
    const bool speed_only = budget.min_speedup && !budget.max_kl && !budget.max_dce;
    return speed_only ? -kl : speedup;
  }

  // The combinations that should be best within the budget, measured on the search set. Those that were
  // measured before teach the prediction how far it is off.
  bool measure_finalists() {
    std::vector<Combination> all = combinations();
    const auto known = [&](const Combination& c) {
      return std::any_of(finalists_.begin(), finalists_.end(),
                         [&](const Measured& m) { return m.policy.name == c.policy.name; });
    };
    all.erase(std::remove_if(all.begin(), all.end(), known), all.end());
    const double allowed = 1.15;  // predictions from few items: those a little above may turn out within
    std::stable_sort(all.begin(), all.end(), [&](const Combination& a, const Combination& b) {
      const auto key = [&](const Combination& c) {
        const auto& p = c.predicted;
        const double over =
            std::max(allowed, overshoot(p.kl, p.dce, p.niah, p.speedup, dense_.niah, strictness_));
        return std::pair(-over, merit(p.kl, p.speedup));
      };
      return key(a) > key(b);
    });
    std::vector<EvalPolicy> policies;
    for (const Combination& c : all) {
      if (policies.size() == kFinalists) break;
      policies.push_back(c.policy);
    }
    if (policies.empty()) return true;
    const auto measured = measure(policies, {settings_.search_windows, settings_.search_needles, false}, 0.5,
                                  0.75, "combinations");
    if (measured.empty()) return false;
    search_dense_ = measured.front();
    finalists_.insert(finalists_.end(), measured.begin() + 1, measured.end());
    return true;
  }

  // The two best finalists on the held-out set.
  bool measure_held_out() {
    std::vector<Measured> ranked = finalists_;
    std::stable_sort(ranked.begin(), ranked.end(), [&](const Measured& a, const Measured& b) {
      const auto key = [&](const Measured& m) {
        return std::pair(-std::max(1.0, overshoot(m, search_dense_, kSearchMargin * strictness_)),
                         merit(m.kl, m.speedup));
      };
      return key(a) > key(b);
    });
    std::vector<EvalPolicy> policies;
    for (const Measured& m : ranked) {
      const bool tried = std::find(tried_.begin(), tried_.end(), m.policy.name) != tried_.end();
      if (tried || policies.size() == 2) continue;
      policies.push_back(m.policy);
      tried_.push_back(m.policy.name);
    }
    if (policies.empty()) return true;
    const auto measured = measure(policies, {settings_.held_out_windows, settings_.held_out_needles, true},
                                  0.75, 1, "held-out texts", /*second_question=*/true);
    if (measured.empty()) return false;
    for (std::size_t i = 1; i < measured.size(); ++i) consider(measured[i], measured.front());
    return true;
  }

  void consider(const Measured& m, const Measured& dense) {
    const double over = overshoot(m, dense, 1);
    const bool met = over <= 1;
    const Measured& best = result_.best;
    const bool better = !have_best_ || (met && !result_.met) ||
                        (met && result_.met && merit(m.kl, m.speedup) > merit(best.kl, best.speedup)) ||
                        (!met && !result_.met && over < best_overshoot_);
    if (!better) return;
    have_best_ = true;
    best_overshoot_ = over;
    result_.met = met;
    result_.best = m;
  }

  void fill_policy() {
    const Measured& best = result_.best;
    Policy& policy = result_.policy;
    policy = best.policy.policy;
    const ModelFacts facts = engine_.facts();
    policy.model_name = facts.name;
    policy.model_layers = facts.layers;
    policy.shape_hash = facts.shape_hash;
    const auto or_null = [](const std::optional<double>& value) { return value ? json(*value) : json(); };
    policy.measured = {{"kl", best.kl},
                       {"dce", best.dce},
                       {"niah", best.niah},
                       {"second_question_niah", or_null(best.second_question)},
                       {"speedup", best.speedup},
                       {"density", best.density},
                       {"avgtok", best.avgtok},
                       {"length", settings_.length},
                       {"text_sha256", sha256(settings_.texts)}};
  }

  const Engine& engine_;
  const CalibrationSettings& settings_;
  const CalibrationOptions& options_;
  PromptEncoder encoder_;
  Essays essays_;
  std::unique_ptr<Task> niah_, second_question_;
  std::vector<std::vector<TokenId>> search_windows_, held_out_windows_;
  std::vector<double> recall_;
  BlockCurves curves_;
  Measured dense_, search_dense_;  // on the coarse and on the whole search set
  std::vector<Measured> blocks_, tokens_, finalists_;
  std::vector<std::string> tried_;  // on the held-out set
  double strictness_ = 1;
  double best_overshoot_ = 0;
  bool have_best_ = false;
  CalibrationResult result_;
};

Calibration::Calibration(const Engine& engine, CalibrationSettings settings)
    : engine_(engine), settings_(std::move(settings)) {
  const QualityBudget& budget = settings_.budget;
  if (!budget.max_kl && !budget.max_dce && !budget.min_niah && !budget.min_speedup) {
    fail(ErrorCode::kBadArgument, "no budget: give --max-kl, --max-dce, --min-niah or --min-speedup");
  }
  if (settings_.texts.empty()) fail(ErrorCode::kBadArgument, "no text to calibrate on");
  if (settings_.length > engine.arch().context) {
    fail(ErrorCode::kBadArgument, "--length {}: the model's context is {}", settings_.length,
         engine.arch().context);
  }
  Search(engine_, settings_, {});  // cuts the windows: texts that are too short show now
}

Calibration::~Calibration() = default;

std::optional<CalibrationResult> Calibration::run(const CalibrationOptions& options) {
  return Search(engine_, settings_, options).run();
}

}  // namespace winnow
