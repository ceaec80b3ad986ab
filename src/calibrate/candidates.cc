#include "calibrate/candidates.h"

#include <algorithm>
#include <utility>

namespace winnow {
namespace {

// What a stage's heads may need of a prompt: at the first stage, and at an early one, which keeps most.
constexpr double kSharp = 0.1, kVague = 0.3;
// Layers between an early stage and the first, for it to be worth its scoring.
constexpr std::int64_t kLayersBetween = 3;
// A stage keeps this many times what its heads needed on the prompts they were chosen by.
constexpr double kReserve = 1.25;

// Shares of the original prompt that stay after the early stage, the first and the one between it and the
// end; 1: there is no such stage (docs/quality.md).
struct Keeps {
  double early, first, middle;
};
constexpr Keeps kLadder[] = {{0.85, 0.65, 1},    {0.80, 0.57, 0.50}, {0.75, 0.50, 0.41}, {0.62, 0.42, 0.32},
                             {0.55, 0.35, 0.26}, {0.48, 0.28, 0.20}, {0.40, 0.22, 0.14}};
constexpr double kQuota = 0.5;

class StageList {
 public:
  explicit StageList(const RetrievalSignal& signal) : signal_(signal) {}

  // `kept`: the share of the original prompt that is to stay.
  void add(std::int64_t layer, double kept, double may_need) {
    const std::vector<AskedHead> heads = heads_to_ask(signal_, layer, may_need, 3);
    if (heads.empty()) return;
    const double needed = signal_.needed[signal_.index(heads.front().layer, heads.front().head)];
    kept = std::min({kept_, 1.0, std::max(kept, kReserve * needed / kQuota)});
    if (kept >= kept_) return;
    stages_.push_back({layer, kept / kept_, std::nullopt, heads});
    kept_ = kept;
  }
  std::vector<Stage> take() { return std::move(stages_); }

 private:
  const RetrievalSignal& signal_;
  std::vector<Stage> stages_;
  double kept_ = 1.0;  // of the original prompt, behind the last stage
};

TokenPolicy with_stages(std::vector<Stage> stages) {
  TokenPolicy tokens;
  tokens.stages = std::move(stages);
  tokens.scorer = ScorerKind::kAttention;
  tokens.window = SignalSettings{}.window;
  tokens.queries = QueryReduction::kMax;
  tokens.pool = SignalSettings{}.pool;
  tokens.quota = kQuota;
  tokens.protect_tail_min = SignalSettings{}.skip_last;
  tokens.protect_tail_share = 0.02;
  return tokens;
}

}  // namespace

std::vector<AskedHead> heads_to_ask(const RetrievalSignal& signal, std::int64_t layer, double most,
                                    std::size_t count) {
  std::vector<std::pair<double, AskedHead>> found;
  for (std::int64_t l = std::min(layer, signal.layers) - 1; l >= 0; --l) {
    for (std::int64_t h = 0; h < signal.heads; ++h) {
      const double needed = signal.needed[signal.index(l, h)];
      if (needed <= most) found.emplace_back(needed, AskedHead{l, static_cast<std::int32_t>(h)});
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<AskedHead> heads;
  for (std::size_t i = 0; i < std::min(count, found.size()); ++i) heads.push_back(found[i].second);
  return heads;
}

StagePlaces find_stage_places(const RetrievalSignal& signal) {
  StagePlaces places;
  for (std::int64_t layer = 1; layer < signal.layers; ++layer) {
    if (!places.early && !heads_to_ask(signal, layer, kVague).empty()) places.early = layer;
    if (!places.first && !heads_to_ask(signal, layer, kSharp).empty()) places.first = layer;
  }
  if (!places.first || *places.early > *places.first - kLayersBetween) places.early.reset();
  return places;
}

std::vector<TokenPolicy> token_candidates(const RetrievalSignal& signal) {
  const StagePlaces places = find_stage_places(signal);
  std::vector<TokenPolicy> candidates;
  if (!places.first) return candidates;
  const std::int64_t first = *places.first;
  const std::int64_t middle = first + (signal.layers - first) / 2;
  for (const Keeps& keeps : kLadder) {
    StageList stages(signal);
    if (places.early) stages.add(*places.early, keeps.early, kVague);
    stages.add(first, keeps.first, kSharp);
    if (middle > first) stages.add(middle, keeps.middle, kSharp);
    TokenPolicy tokens = with_stages(stages.take());
    const auto same = [&](const TokenPolicy& other) {
      return std::equal(
          other.stages.begin(), other.stages.end(), tokens.stages.begin(), tokens.stages.end(),
          [](const Stage& a, const Stage& b) { return a.layer == b.layer && a.keep == b.keep; });
    };
    if (tokens.stages.empty() || std::any_of(candidates.begin(), candidates.end(), same)) continue;
    candidates.push_back(std::move(tokens));
  }
  return candidates;
}

std::vector<double> density_candidates() { return {0.30, 0.22, 0.16, 0.11, 0.08}; }

}  // namespace winnow
