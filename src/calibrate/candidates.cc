#include "calibrate/candidates.h"

#include <algorithm>

#include "core/check.h"

namespace winnow {
namespace {

// Shares of the current tokens that a stage keeps, from careful to bold.
constexpr double kKeeps[] = {0.75, 0.6, 0.45, 0.3};
// Layers after the last stage for it to be worth its scoring.
constexpr std::int64_t kLayersAfterLastStage = 3;

TokenPolicy with_stages(std::vector<std::int64_t> layers, double keep) {
  TokenPolicy tokens;
  for (const std::int64_t layer : layers) tokens.stages.push_back({layer, keep, std::nullopt});
  tokens.scorer = ScorerKind::kAttention;
  tokens.window = 64;
  tokens.heads = HeadReduction::kMax;
  tokens.pool = 31;
  tokens.recency_mix = 0.2;
  tokens.protect_tail_min = 64;
  tokens.protect_tail_share = 0.02;
  return tokens;
}

// The informed layer at or after `layer`; the last one when there is none.
std::int64_t informed_from(const StagePlaces& places, std::int64_t layer) {
  const auto found = std::lower_bound(places.informed.begin(), places.informed.end(), layer);
  return found == places.informed.end() ? places.informed.back() : *found;
}

}  // namespace

StagePlaces find_stage_places(std::span<const double> recall, double share) {
  StagePlaces places;
  const auto layers = static_cast<std::int64_t>(recall.size());
  if (layers < 2) return places;
  const double enough = share * *std::max_element(recall.begin(), recall.end());
  if (enough <= 0) return places;
  for (std::int64_t layer = 1; layer < layers; ++layer) {
    if (recall[layer - 1] >= enough) places.informed.push_back(layer);
  }
  return places;
}

std::vector<TokenPolicy> token_candidates(const StagePlaces& places, std::int64_t layers) {
  std::vector<TokenPolicy> candidates;
  if (places.informed.empty()) return candidates;
  const std::int64_t last = layers - kLayersAfterLastStage;
  std::vector<std::vector<std::int64_t>> families;
  const auto add = [&](std::vector<std::int64_t> stages) {
    stages.erase(std::remove_if(stages.begin(), stages.end(), [&](std::int64_t l) { return l > last; }),
                 stages.end());
    stages.erase(std::unique(stages.begin(), stages.end()), stages.end());
    if (stages.empty() || !std::is_sorted(stages.begin(), stages.end())) return;
    if (std::find(families.begin(), families.end(), stages) == families.end()) families.push_back(stages);
  };
  const std::int64_t first = places.informed.front();
  const std::int64_t later = informed_from(places, first + 1);
  for (const std::int64_t start : {first, later}) {
    const std::int64_t middle = informed_from(places, start + (layers - start) / 3);
    const std::int64_t late = informed_from(places, start + 2 * (layers - start) / 3);
    add({start});
    add({start, middle});
    add({start, middle, late});
  }
  for (const std::vector<std::int64_t>& stages : families) {
    for (const double keep : kKeeps) candidates.push_back(with_stages(stages, keep));
  }
  return candidates;
}

std::vector<double> density_candidates() { return {0.45, 0.33, 0.25, 0.19, 0.14, 0.10}; }

}  // namespace winnow
