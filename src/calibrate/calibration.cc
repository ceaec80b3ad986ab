#include "calibrate/calibration.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <set>

#include "calibrate/candidates.h"
#include "calibrate/prediction.h"
#include "calibrate/retrieval_signal.h"
#include "calibrate/selector_choice.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "eval/niah_tasks.h"
#include "eval/question_workload.h"
#include "eval/summary.h"
#include "eval/window_workload.h"
#include "sparsity/attention_json.h"

namespace winnow {
namespace {

using nlohmann::json;

// Items that the ladders are measured on, before combinations meet the whole search set.
constexpr std::int64_t kCoarseWindows = 4, kCoarseNeedles = 8;
constexpr std::size_t kSelectorTokens = 2048;
constexpr std::int64_t kCurveWindows = 2, kSignalPrompts = 8, kSecondQuestions = 20;
// A rung of a ladder that loses so many times the budget: bolder ones are not tried.
constexpr double kHopeless = 1.5;
// Combinations measured on the search set at most before one meets the held-out texts, and how often the
// budget is tightened before giving up.
constexpr std::size_t kFinalists = 3;
constexpr int kRounds = 4;
// What is measured on the search set must stay this far below the budget: chosen policies look better than
// they are.
constexpr double kSearchMargin = 0.9;
constexpr double kDefaultNiahShare = 0.95;
// Shares of the whole, for progress.
constexpr double kLaddersBegin = 0.2, kLaddersEnd = 0.5;
constexpr double kBaselines = 8;  // policies measured beside the best, at most

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
           "the texts are too short for {} windows of {} tokens that do not overlap: give more text, "
           "a smaller --length, or fewer --search-windows and --held-out-windows",
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
           "kinds; ask for more",
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
    progress(1, "done");
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
  // A part of the whole, as shares of it.
  struct Part {
    double from, to;
    double at(double share) const { return from + (to - from) * share; }
  };
  // A step of the whole, as the measuring functions tell it.
  std::function<void(double)> step(const Part& part, const char* what) const {
    return [this, part, what](double share) { progress(part.at(share), what); };
  }

  // How many prompts a step reads, roughly.
  double search_work() const {
    return static_cast<double>(settings_.search_windows + settings_.search_needles);
  }
  double held_out_work() const {
    return static_cast<double>(settings_.held_out_windows + settings_.held_out_needles);
  }
  double second_question_work() const {  // under the policy and, the first time, dense
    const double passes = second_question_dense_ ? 1 : 2;
    return passes * static_cast<double>(std::min(kSecondQuestions, settings_.held_out_needles));
  }
  double baseline_work() const { return options_.baselines ? kBaselines * search_work() : 0; }

  // After the ladders nobody knows how many steps there will be: a combination or a round more may be needed.
  // So the next step gets of what is left its part beside the `later` work that is sure to follow, and never
  // all of it: the share that is done only grows.
  Part next_part(double work, double later) {
    constexpr double kMostOfWhatIsLeft = 0.9;
    const double begin = done_;
    done_ += (1 - done_) * std::min(kMostOfWhatIsLeft, work / (work + later));
    return {begin, done_};
  }

  // What the state file says of this model and these settings.
  json identity() const {
    return {{"model", engine_.source().content_hash()},
            {"texts", texts_json(settings_.texts)},
            {"length", settings_.length},
            {"seed", settings_.seed},
            {"windows", {settings_.search_windows, settings_.held_out_windows}},
            {"needles", settings_.search_needles},
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
      attention_ = read_attention(state.at("attention"), options_.state_file);
    } catch (const json::exception&) {
      return false;  // of another version: measured again
    } catch (const Error&) {
      return false;
    }
    return true;
  }
  void save_state() const {
    if (options_.state_file.empty()) return;
    const json state = {{"identity", identity()},
                        {"signal", to_json(signal_)},
                        {"attention", attention_to_json(attention_)},
                        {"curves", to_json(curves_)}};
    write_file_atomically(options_.state_file, state.dump() + "\n");
  }

  bool measure_model() {
    std::vector<NeedlePrompt> prompts;
    for (std::int64_t i = 0; i < std::min(kSignalPrompts, settings_.search_needles); ++i) {
      const Question question = niah_->make(settings_.length, i, search_seed());
      prompts.push_back({encoder_.first_turn(question.prompt), question.references.front()});
    }
    signal_ = measure_retrieval_signal(engine_, prompts, {}, step({0, 0.04}, "where needles are seen"),
                                       options_.cancelled);
    if (signal_.layers == 0) return false;
    const auto tokens = std::span(search_windows_.front());
    const auto selector =
        choose_selector(engine_, tokens.first(std::min<std::size_t>(tokens.size(), kSelectorTokens)),
                        step({0.04, 0.08}, "selectors of blocks"), options_.cancelled);
    if (!selector) return false;
    attention_ = *selector;
    const std::int64_t windows = std::min(kCurveWindows, std::ssize(search_windows_));
    const CurveSettings curves{.attention = attention_,
                               .windows = {search_windows_.begin(), search_windows_.begin() + windows}};
    if (!measure_block_curves(engine_, curves, step({0.08, kLaddersBegin}, "errors by head"),
                              options_.cancelled, curves_)) {
      return false;
    }
    save_state();
    return true;
  }

  std::uint64_t search_seed() const { return 2 * settings_.seed; }
  std::uint64_t held_out_seed() const { return 2 * settings_.seed + 1; }

  RunnerOptions runner_options(const Part& part, const char* what) const {
    RunnerOptions runner;
    runner.journal = options_.journal;
    runner.cancelled = options_.cancelled;
    runner.progress = [this, part, what](double share, const std::string&) {
      progress(part.at(share), what);
    };
    return runner;
  }

  using Samples = std::vector<std::vector<Sample>>;  // [policies][items]
  std::optional<Samples> samples(const std::vector<EvalPolicy>& policies, std::unique_ptr<Workload> items,
                                 const RunnerOptions& runner) const {
    std::vector<std::unique_ptr<Workload>> workloads;
    workloads.push_back(std::move(items));
    RunResult run = run_evaluation(engine_, policies, workloads, runner);
    if (!run.finished()) return std::nullopt;
    return std::move(run.samples.front());
  }

  // The policies, dense first. Empty when cancelled.
  std::vector<Measured> measure(std::vector<EvalPolicy> policies, const Sets& sets, const Part& part,
                                const char* what) {
    const Workloads& of = sets.held_out ? held_out_ : search_;
    const double middle = part.at(0.5);
    const auto needles =
        samples(policies, first_items(*of.needles, sets.needles), runner_options({part.from, middle}, what));
    if (!needles) return {};
    const auto dense_niah = find_dense_niah(*needles, sets, runner_options({middle, middle}, what));
    if (!dense_niah) return {};
    policies.insert(policies.begin(), named("dense", {}));
    const auto windows =
        samples(policies, first_items(*of.windows, sets.windows), runner_options({middle, part.to}, what));
    if (!windows) return {};

    Measured dense = measure_samples(policies[0], (*windows)[0], {}, (*windows)[0]);
    dense.needles = sets.needles;
    dense.niah = *dense_niah;
    std::vector<Measured> all{std::move(dense)};
    for (std::size_t p = 1; p < policies.size(); ++p) {
      all.push_back(measure_samples(policies[p], (*windows)[p], (*needles)[p - 1], (*windows)[0]));
    }
    for (Measured& measured : all) {
      measured.held_out = sets.held_out;
      remember(measured);
    }
    return all;
  }

  // The share of the needles that dense finds. It is asked for those that some policy lost, on the same set:
  // the others count as found by dense as well, which can only raise what policies must find. The frontier
  // shows dense beside others, and has it asked for all.
  std::optional<double> find_dense_niah(const Samples& of_policies, const Sets& sets,
                                        const RunnerOptions& runner) {
    if (sets.needles == 0) return 1;
    std::set<std::int64_t>& asked = sets.held_out ? asked_of_dense_held_out_ : asked_of_dense_;
    for (const std::vector<Sample>& policy : of_policies) {
      for (std::int64_t i = 0; i < std::ssize(policy); ++i) {
        if (options_.baselines || policy[i].values.at("score") < 1) asked.insert(i);
      }
    }
    std::vector<std::int64_t> numbers(asked.begin(), asked.lower_bound(sets.needles));
    const Workloads& of = sets.held_out ? held_out_ : search_;
    const auto dense = samples({named("dense", {})}, some_items(*of.needles, numbers), runner);
    if (!dense) return std::nullopt;
    double lost = 0;
    for (const Sample& sample : dense->front()) lost += 1 - sample.values.at("score");
    return 1 - lost / static_cast<double>(sets.needles);
  }

  // A row of the frontier, or another value of the same: dense is measured beside every policy.
  void remember(const Measured& measured) {
    const auto same = std::find_if(result_.frontier.begin(), result_.frontier.end(), [&](const Measured& m) {
      return m.policy.name == measured.policy.name && m.held_out == measured.held_out &&
             m.windows == measured.windows && m.needles == measured.needles;
    });
    if (same == result_.frontier.end()) {
      result_.frontier.push_back(measured);
    } else {
      *same = measured;
    }
  }

  // What the policy and dense find of a second needle, asked for after the prompt was read for the first.
  // Dense is asked once: the questions are the same in every round. False when cancelled.
  bool measure_second_question(Measured& measured) {
    std::vector<EvalPolicy> policies{measured.policy};
    if (!second_question_dense_) policies.push_back(named("dense", {}));
    const auto answers =
        samples(policies, first_items(*held_out_.second_questions, kSecondQuestions),
                runner_options(next_part(second_question_work(), baseline_work()), "a second question"));
    if (!answers) return false;
    measured.second_question = estimate(answers->front(), "score")->value;
    if (!second_question_dense_) second_question_dense_ = estimate(answers->back(), "score")->value;
    measured.second_question_dense = second_question_dense_;
    return true;
  }

  bool measure_ladders() {
    // On windows alone: blocks lose no needles that their KL does not tell of (docs/quality.md), and
    // finalists are measured on needles anyway.
    const auto blocks =
        climb(block_policies(), {kCoarseWindows, 0, false}, {kLaddersBegin, 0.3}, "blocks of attention");
    if (!blocks) return false;
    const auto tokens =
        climb(token_policies(), {kCoarseWindows, std::min(kCoarseNeedles, settings_.search_needles), false},
              {0.3, kLaddersEnd}, "stages");
    if (!tokens) return false;
    done_ = kLaddersEnd;
    blocks_ = *blocks;
    tokens_ = *tokens;
    for (Measured& policy : blocks_) policy.niah = dense_.niah;
    return true;
  }

  std::vector<EvalPolicy> block_policies() const {
    std::vector<EvalPolicy> policies;
    for (const double density : density_candidates()) {
      Policy policy;
      policy.attention = attention_;
      policy.attention.thresholds = choose_thresholds(curves_, density).thresholds;
      policies.push_back(named(fmt::format("blocks {:.2f}", density), policy));
    }
    return policies;
  }

  std::vector<EvalPolicy> token_policies() const {
    std::vector<EvalPolicy> policies;
    for (const TokenPolicy& tokens : token_candidates(signal_)) {
      Policy policy;
      policy.tokens = tokens;
      policies.push_back(named("stages " + stages_text(tokens), policy));
    }
    return policies;
  }

  // The rungs of a ladder, careful ones first, up to one that is far beyond the budget; all for the frontier.
  // Nothing when cancelled.
  std::optional<std::vector<Measured>> climb(const std::vector<EvalPolicy>& rungs, const Sets& sets,
                                             const Part& part, const char* what) {
    std::vector<Measured> climbed;
    for (std::size_t i = 0; i < rungs.size(); ++i) {
      const auto begin = static_cast<double>(i), all = static_cast<double>(rungs.size());
      const auto measured =
          measure({rungs[i]}, sets, {part.at(begin / all), part.at((begin + 1) / all)}, what);
      if (measured.empty()) return std::nullopt;
      dense_ = measured[0];
      climbed.push_back(measured[1]);
      if (!options_.baselines && far_beyond(measured[1])) break;
    }
    return climbed;
  }

  // By the KL: it is no larger than the change of cross-entropy that comes with it, and far less noisy.
  bool far_beyond(const Measured& measured) const {
    const QualityBudget& budget = settings_.budget;
    return (budget.max_kl && measured.kl > kHopeless * *budget.max_kl) ||
           (budget.max_dce && measured.kl > kHopeless * *budget.max_dce);
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

  // The combinations that should be best within the budget and were not measured yet, best first.
  std::vector<Combination> next_combinations() const {
    std::vector<Combination> all = combinations();
    const auto known = [&](const Combination& c) {
      return std::any_of(finalists_.begin(), finalists_.end(),
                         [&](const Measured& m) { return m.policy.name == c.policy.name; });
    };
    all.erase(std::remove_if(all.begin(), all.end(), known), all.end());
    std::stable_sort(all.begin(), all.end(), [&](const Combination& a, const Combination& b) {
      const auto key = [&](const Combination& c) {
        const auto& p = c.predicted;
        const double over =
            std::max(1.0, overshoot(p.kl, p.dce, p.niah, p.speedup, dense_.niah, strictness_));
        return std::pair(-over, merit(p.kl, p.speedup));
      };
      return key(a) > key(b);
    });
    if (all.size() > kFinalists) all.resize(kFinalists);
    return all;
  }

  // One combination after the other on the search set, until one holds: it is the fastest of those that
  // should.
  bool measure_finalists() {
    for (const Combination& combination : next_combinations()) {
      const auto measured =
          measure({combination.policy}, {settings_.search_windows, settings_.search_needles, false},
                  next_part(search_work(), held_out_work() + second_question_work() + baseline_work()),
                  "combinations");
      if (measured.empty()) return false;
      search_dense_ = measured[0];
      finalists_.push_back(measured[1]);
      if (overshoot(measured[1], measured[0], kSearchMargin * strictness_) <= 1) break;
    }
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
    auto measured =
        measure({untried->policy}, {settings_.held_out_windows, settings_.held_out_needles, true},
                next_part(held_out_work(), second_question_work() + baseline_work()), "held-out texts");
    if (measured.empty() || !measure_second_question(measured[1])) return false;
    remember(measured[1]);
    consider(measured[1], measured.front());
    return true;
  }

  // What others would lose at the best policy's number of tokens, or of cached rows.
  bool measure_baselines() {
    std::vector<EvalPolicy> policies;
    const TokenPolicy& best = result_.best.policy.policy.tokens;
    for (const ScorerKind scorer : {ScorerKind::kAttention, ScorerKind::kRecency, ScorerKind::kNorm,
                                    ScorerKind::kRandom, ScorerKind::kOracle}) {
      if (best.stages.empty()) break;
      Policy policy;
      policy.tokens = with_scorer(best, scorer);
      const char* ceiling = scorer == ScorerKind::kOracle ? ", a ceiling" : "";
      policies.push_back(
          named(fmt::format("{}{} ({})", scorer_name(scorer), ceiling, stages_text(best)), policy));
    }
    // Learned scorers stand at the stages they were trained for.
    if (!shipped_scorers(engine_.facts()).empty())
      policies.push_back(named("keep08:learned", parse_policy("keep08:learned", engine_.facts())));
    const double rows = best.stages.empty() ? 0.5 : result_.best.kv_share;
    for (const EvictionKind kind : {EvictionKind::kSnapKv, EvictionKind::kH2o}) {
      EvalPolicy policy = named(fmt::format("{}={:.2f}", eviction_name(kind), rows), {});
      policy.eviction = KvEviction{.kind = kind, .keep = rows};
      policies.push_back(std::move(policy));
    }
    auto measured = measure(policies, {settings_.search_windows, settings_.search_needles, false}, {done_, 1},
                            "baselines");
    for (std::size_t i = 1; i < measured.size(); ++i) {
      measured[i].baseline = true;
      remember(measured[i]);
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
                       {"second_question_niah_dense", or_null(best.second_question_dense)},
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
  AttentionPolicy attention_;  // selector and blocks; thresholds by curves_
  BlockCurves curves_;
  Measured dense_, search_dense_;  // on the coarse and on the whole search set
  std::set<std::int64_t> asked_of_dense_, asked_of_dense_held_out_;  // numbers of needles
  std::optional<double> second_question_dense_;
  std::vector<Measured> blocks_, tokens_, finalists_;
  std::vector<std::string> tried_;  // on the held-out set
  double strictness_ = 1;
  double best_overshoot_ = 0;
  double done_ = 0;  // share of the whole, from the end of the ladders on
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
