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
constexpr std::int64_t kCurveWindows = 2, kSignalPrompts = 8, kSecondQuestions = 20;
// Combinations measured on the search set at a time, and how often the budget is tightened before giving up.
constexpr std::size_t kFinalists = 3;
constexpr int kRounds = 4;
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
    search_ = make_workloads(search_windows_, settings.search_needles, search_seed(), "search");
    held_out_ = make_workloads(held_out_windows_, settings.held_out_needles, held_out_seed(), "held out");
  }

  std::optional<CalibrationResult> run() {
    if (!load_state() && !measure_model()) return std::nullopt;
    result_.signal = signal_;
    if (!measure_ladders()) return std::nullopt;
    for (int round = 0; round < kRounds; ++round) {
      if (!measure_finalists()) return std::nullopt;
      if (!measure_held_out()) return std::nullopt;
      if (result_.met) break;
      strictness_ *= 0.75;
    }
    if (options_.baselines && !measure_baselines()) return std::nullopt;
    fill_policy();
    return std::move(result_);
  }

 private:
  // What policies are measured on. Windows keep their dense results, so that a policy that is measured later
  // needs no second dense pass.
  struct Workloads {
    std::unique_ptr<Workload> windows, needles, second_questions;
  };
  struct Sets {
    std::int64_t windows, needles;
    bool held_out;
  };

  Workloads make_workloads(const std::vector<std::vector<TokenId>>& windows, std::int64_t needles,
                           std::uint64_t seed, const char* name) const {
    const WindowSettings window{
        .length = settings_.length,
        .texts = {texts_json(settings_.texts), settings_.search_windows, settings_.held_out_windows, name},
        .keep_dense = true};
    QuestionSettings questions{settings_.length, needles, seed};
    Workloads made;
    made.windows = make_window_workload(engine_, TextWindows{windows}, window);
    made.needles = make_question_workload(engine_, encoder_, *niah_, questions);
    questions.count = std::min(kSecondQuestions, needles);
    made.second_questions = make_question_workload(engine_, encoder_, *second_question_, questions);
    return made;
  }

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
      signal_ = retrieval_signal_from_json(state.at("signal"));
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
    const json state = {{"identity", identity()}, {"signal", to_json(signal_)}, {"curves", to_json(curves_)}};
    write_file_atomically(options_.state_file, state.dump() + "\n");
  }

  bool measure_model() {
    std::vector<NeedlePrompt> prompts;
    for (std::int64_t i = 0; i < std::min(kSignalPrompts, settings_.search_needles); ++i) {
      const Question question = niah_->make(settings_.length, i, search_seed());
      prompts.push_back({encoder_.first_turn(question.prompt), question.references.front()});
    }
    signal_ = measure_retrieval_signal(engine_, prompts, {}, step(0, 0.04, "where needles are seen"),
                                       options_.cancelled);
    if (signal_.layers == 0) return false;
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

  RunnerOptions runner_options(double from, double to, const char* what) const {
    RunnerOptions runner;
    runner.journal = options_.journal;
    runner.cancelled = options_.cancelled;
    runner.progress = [this, from, to, what](double share, const std::string&) {
      progress(from + (to - from) * share, what);
    };
    return runner;
  }

  // The policies, dense first. Empty when cancelled.
  std::vector<Measured> measure(std::vector<EvalPolicy> policies, const Sets& sets, double from, double to,
                                const char* what) {
    policies.insert(policies.begin(), named("dense", {}));
    const Workloads& of = sets.held_out ? held_out_ : search_;
    std::vector<std::unique_ptr<Workload>> workloads;
    workloads.push_back(first_items(*of.windows, sets.windows));
    workloads.push_back(first_items(*of.needles, sets.needles));
    const RunResult run = run_evaluation(engine_, policies, workloads, runner_options(from, to, what));
    if (!run.finished()) return {};
    std::vector<Measured> all;
    for (std::size_t p = 0; p < policies.size(); ++p) {
      Measured measured = measure_samples(policies[p], run.samples[0][p], run.samples[1][p],
                                          run.samples[0][0], run.samples[1][0]);
      measured.held_out = sets.held_out;
      all.push_back(std::move(measured));
    }
    result_.frontier.insert(result_.frontier.end(), all.begin(), all.end());
    return all;
  }

  // What the policy finds of a second needle, asked for after the prompt was read for the first. False when
  // cancelled.
  bool measure_second_question(Measured& measured) {
    std::vector<std::unique_ptr<Workload>> workloads;
    workloads.push_back(first_items(*held_out_.second_questions, kSecondQuestions));
    const RunResult run =
        run_evaluation(engine_, {measured.policy}, workloads, runner_options(0.95, 1, "a second question"));
    if (run.finished()) measured.second_question = estimate(run.samples[0][0], "score")->value;
    return run.finished();
  }

  bool measure_ladders() { return measure_block_ladder() && measure_token_ladder(); }

  // On windows alone: blocks lose no needles that their KL does not tell of (docs/quality.md), and finalists
  // are measured on needles anyway.
  bool measure_block_ladder() {
    std::vector<EvalPolicy> policies;
    for (const double density : density_candidates()) {
      Policy policy;
      policy.attention = block_selection();
      policy.attention.thresholds = choose_thresholds(curves_, density).thresholds;
      policies.push_back(named(fmt::format("blocks {:.2f}", density), policy));
    }
    std::vector<Measured> measured =
        measure(std::move(policies), {kCoarseWindows, 0, false}, 0.2, 0.3, "blocks of attention");
    if (measured.empty()) return false;
    blocks_.assign(measured.begin() + 1, measured.end());
    return true;
  }

  bool measure_token_ladder() {
    std::vector<EvalPolicy> policies;
    for (const TokenPolicy& tokens : token_candidates(signal_)) {
      Policy policy;
      policy.tokens = tokens;
      policies.push_back(named("stages " + stages_text(tokens), policy));
    }
    std::vector<Measured> measured = measure(
        std::move(policies), {kCoarseWindows, std::min(kCoarseNeedles, settings_.search_needles), false}, 0.3,
        0.5, "stages");
    if (measured.empty()) return false;
    dense_ = measured.front();
    tokens_.assign(measured.begin() + 1, measured.end());
    for (Measured& blocks : blocks_) blocks.niah = dense_.niah;
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

  // The best finalist that was not tried yet, on the held-out set.
  bool measure_held_out() {
    std::vector<Measured> ranked = finalists_;
    std::stable_sort(ranked.begin(), ranked.end(), [&](const Measured& a, const Measured& b) {
      const auto key = [&](const Measured& m) {
        return std::pair(-std::max(1.0, overshoot(m, search_dense_, kSearchMargin * strictness_)),
                         merit(m.kl, m.speedup));
      };
      return key(a) > key(b);
    });
    const auto untried = std::find_if(ranked.begin(), ranked.end(), [&](const Measured& m) {
      return std::find(tried_.begin(), tried_.end(), m.policy.name) == tried_.end();
    });
    if (untried == ranked.end()) return true;
    tried_.push_back(untried->policy.name);
    auto measured = measure({untried->policy}, {settings_.held_out_windows, settings_.held_out_needles, true},
                            0.75, 0.95, "held-out texts");
    if (measured.empty() || !measure_second_question(measured[1])) return false;
    result_.frontier.back() = measured[1];
    consider(measured[1], measured.front());
    return true;
  }

  // What others would lose at the best policy's number of tokens, or of cached rows.
  bool measure_baselines() {
    std::vector<EvalPolicy> policies;
    const TokenPolicy& best = result_.best.policy.policy.tokens;
    for (const ScorerKind scorer :
         {ScorerKind::kAttention, ScorerKind::kRecency, ScorerKind::kNorm, ScorerKind::kRandom}) {
      if (best.stages.empty()) break;
      Policy policy;
      policy.tokens = with_scorer(best, scorer);
      policies.push_back(named(fmt::format("{} ({})", scorer_name(scorer), stages_text(best)), policy));
    }
    const double rows = best.stages.empty() ? 0.5 : result_.best.kv_share;
    for (const EvictionKind kind : {EvictionKind::kSnapKv, EvictionKind::kH2o}) {
      EvalPolicy policy = named(fmt::format("{}={:.2f}", eviction_name(kind), rows), {});
      policy.eviction = KvEviction{.kind = kind, .keep = rows};
      policies.push_back(std::move(policy));
    }
    const std::size_t before = result_.frontier.size();
    const auto measured =
        measure(policies, {settings_.search_windows, settings_.search_needles, false}, 0.98, 1, "baselines");
    for (std::size_t i = before; i < result_.frontier.size(); ++i) {
      result_.frontier[i].baseline = !result_.frontier[i].policy.dense();
    }
    return !measured.empty();
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
  Workloads search_, held_out_;
  RetrievalSignal signal_;
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
