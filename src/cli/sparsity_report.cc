#include "cli/sparsity_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "cli/table.h"

namespace winnow::cli {
namespace {

using nlohmann::json;

json share_json(const Share& share) { return {{"all", share.all.mean()}, {"causal", share.causal.mean()}}; }

json below_json(const WeightShares& shares, const std::function<Share(std::size_t)>& share) {
  json below = json::object();
  for (std::size_t i = 0; i < shares.thresholds().size(); ++i)
    below[fmt::format("{:g}", shares.thresholds()[i])] = share_json(share(i));
  return below;
}

// The share below the first threshold, position by position: mean and extremes, and window by window.
json positions_json(const WeightShares& shares, std::int64_t layer, std::int64_t tokens) {
  const Share whole = shares.positions(layer, 0, 0, tokens);
  const auto extremes = [](const RunningMean& mean) -> json {
    return {{"mean", mean.mean()}, {"min", mean.min()}, {"max", mean.max()}};
  };
  json all = json::array(), causal = json::array();
  for (std::int64_t first = 0; first < tokens; first += kWindowRows) {
    const Share window = shares.positions(layer, 0, first, std::min(kWindowRows, tokens - first));
    all.push_back(window.all.mean());
    causal.push_back(window.causal.mean());
  }
  return {{"below", plain(shares.thresholds()[0])},
          {"all", extremes(whole.all)},
          {"causal", extremes(whole.causal)},
          {"windows", {{"rows", kWindowRows}, {"all", all}, {"causal", causal}}}};
}

json prunable_json(const SparsityResult& result, std::int64_t layer) {
  const auto threshold = static_cast<std::size_t>(
      std::find(result.thresholds.begin(), result.thresholds.end(), kPrunableMaximum) -
      result.thresholds.begin());
  json shapes = json::array();
  for (std::size_t i = 0; i < result.shapes.size(); ++i) {
    const PruneShare share = result.analysis->totals().pruned(layer, i, threshold);
    shapes.push_back({{"block_q", result.shapes[i].q},
                      {"block_k", result.shapes[i].k},
                      {"share_all", share.all},
                      {"share_causal", share.causal},
                      {"potentially_prunable_all", share.all > kPrunableShare},
                      {"potentially_prunable", share.causal > kPrunableShare}});
  }
  return shapes;
}

json layer_json(const SparsityResult& result, std::int64_t layer) {
  const WeightShares& shares = result.analysis->shares();
  const WeightRange& range = shares.range(layer);
  json heads = json::array();
  for (std::int64_t head = 0; head < result.heads; ++head) {
    heads.push_back({{"head", head}, {"below", below_json(shares, [&](std::size_t i) {
                                        return shares.head(layer, head, i);
                                      })}});
  }
  return {{"layer", layer},
          {"shape", {result.heads, result.tokens, result.tokens}},
          {"probability_min", range.min},
          {"probability_max", range.max},
          {"row_sum_error", range.row_sum_error},
          {"below", below_json(shares, [&](std::size_t i) { return shares.layer(layer, i); })},
          {"positions", positions_json(shares, layer, result.tokens)},
          {"blocks", prunable_json(result, layer)},
          {"heads", heads}};
}

// null where no row has anything left.
json mean_or_null(const RunningMean& mean) { return mean.count() == 0 ? json() : json(mean.mean()); }

json by_layer_json(const SweepPoint& point) {
  json rows = {{"row_kl_mean", json::array()},   {"row_kl_max", json::array()},
               {"minus_ln_kept", json::array()}, {"empty_rows", json::array()},
               {"pruned_all", json::array()},    {"pruned_causal", json::array()},
               {"density", json::array()},       {"head_density", json::array()}};
  for (const LayerPoint& layer : point.layers) {
    rows["row_kl_mean"].push_back(mean_or_null(layer.rows.kl));
    rows["row_kl_max"].push_back(layer.rows.kl.max());
    rows["minus_ln_kept"].push_back(mean_or_null(layer.rows.minus_ln_kept));
    rows["empty_rows"].push_back(layer.rows.empty_rows);
    rows["pruned_all"].push_back(layer.pruned.all);
    rows["pruned_causal"].push_back(layer.pruned.causal);
    RunningMean density;
    for (const double head : layer.head_density) density.add(head);
    rows["density"].push_back(density.mean());
    rows["head_density"].push_back(layer.head_density);
  }
  return rows;
}

json by_window_json(const SweepPoint& point) {
  json windows = {{"rows", kWindowRows},
                  {"row_kl_mean", json::array()},
                  {"minus_ln_kept", json::array()},
                  {"empty_rows", json::array()}};
  for (const RowMeans& window : point.windows) {
    windows["row_kl_mean"].push_back(mean_or_null(window.kl));
    windows["minus_ln_kept"].push_back(mean_or_null(window.minus_ln_kept));
    windows["empty_rows"].push_back(window.empty_rows);
  }
  return windows;
}

json samples_json(const std::vector<TokenSample>& samples) {
  json list = json::array();
  for (const TokenSample& one : samples) {
    list.push_back({{"prompt", one.prompt},
                    {"position", one.position},
                    {"before", one.before},
                    {"next", one.next},
                    {"dense", one.dense},
                    {"sparse", one.sparse}});
  }
  return list;
}

json end_to_end_json(const EndToEnd& run, const SweepPoint& point) {
  const Drift& drift = run.drift;
  return {{"kl", drift.kl.mean()},
          {"kl_second_half", drift.kl_second_half.mean()},
          {"kl_max", drift.kl.max()},
          {"dce", drift.dce()},
          {"dce_second_half", drift.dce_second_half()},
          {"top1", drift.same_top1.mean()},
          {"ppl", std::exp(drift.sparse_ce.mean())},
          {"ppl_dense", std::exp(drift.dense_ce.mean())},
          {"density", drift.density.mean()},
          {"logit_error",
           {{"mean", drift.logit_error.mean()},
            {"max", drift.logit_error_max},
            {"range", drift.logit_range.mean()},
            {"percent_of_range", 100 * drift.relative_error.mean()},
            {"rule_of_thumb_percent", 100 * point.row_kl_mean}}},
          {"positions", drift.kl.count()},
          {"prefill_ms", drift.prefill_ms},
          {"samples", samples_json(run.samples)}};
}

json point_json(const SparsityResult& result, std::size_t index) {
  const SweepPoint& point = result.points[index];
  const auto drift = result.drifts.find(index);
  return {{"block_q", point.shape.q},
          {"block_k", point.shape.k},
          {"threshold", plain(point.threshold)},
          {"pruned_all", point.pruned.all},
          {"pruned_causal", point.pruned.causal},
          {"density", point.density},
          {"density_second_half", point.density_second_half},
          {"row_kl_mean", point.row_kl_mean},
          {"row_kl_second_half", point.row_kl_second_half},
          {"row_kl_max", point.row_kl_max},
          {"minus_ln_kept", point.minus_ln_kept},
          {"empty_rows", point.empty_rows},
          {"verdict", verdict_name(point.verdict)},
          {"end_to_end", drift == result.drifts.end() ? json() : end_to_end_json(drift->second, point)},
          {"by_layer", by_layer_json(point)},
          {"by_window", by_window_json(point)}};
}

json chosen_json(const SparsityResult& result) {
  json list = json::array();
  for (const ChosenThreshold& one : choose_thresholds(result.points)) {
    json entry = {{"block_q", one.shape.q}, {"block_k", one.shape.k}, {"threshold", nullptr}};
    if (one.point >= 0) {
      const SweepPoint& point = result.points[one.point];
      entry["threshold"] = plain(point.threshold);
      entry["row_kl_mean"] = point.row_kl_mean;
      entry["density"] = point.density;
    }
    list.push_back(entry);
  }
  return list;
}

std::string percent(double share) { return fmt::format("{:.1f}%", 100 * share); }

std::string layers_table(const SparsityResult& result) {
  const WeightShares& shares = result.analysis->shares();
  Table table({"layer", "below .05, all", "causal", "min", "max", "largest", "row sum error"});
  for (std::int64_t layer = 0; layer < result.layers; ++layer) {
    const Share share = shares.layer(layer, 0), positions = shares.positions(layer, 0, 0, result.tokens);
    const WeightRange& range = shares.range(layer);
    table.add_row({fmt::format("{}", layer), percent(share.all.mean()), percent(share.causal.mean()),
                   percent(positions.causal.min()), percent(positions.causal.max()),
                   fmt::format("{:.3f}", range.max), fmt::format("{:.1e}", range.row_sum_error)});
  }
  return table.to_string();
}

std::string sweep_table(const SparsityResult& result) {
  Table table({"block", "threshold", "pruned, all", "causal", "density", "2nd half", "row KL", "max",
               "-ln kept", "empty", "verdict"});
  for (const SweepPoint& point : result.points) {
    table.add_row({to_string(point.shape), fmt::format("{:g}", point.threshold), percent(point.pruned.all),
                   percent(point.pruned.causal), fmt::format("{:.3f}", point.density),
                   fmt::format("{:.3f}", point.density_second_half), fmt::format("{:.4f}", point.row_kl_mean),
                   fmt::format("{:.2f}", point.row_kl_max), fmt::format("{:.4f}", point.minus_ln_kept),
                   fmt::format("{}", point.empty_rows), verdict_name(point.verdict)});
  }
  return table.to_string();
}

std::string drift_table(const SparsityResult& result) {
  Table table({"block", "threshold", "density", "row KL", "KL", "2nd half", "dCE", "top1", "ppl",
               "logit error", "max", "% of range", "100 x row KL"});
  for (const auto& [index, run] : result.drifts) {
    const SweepPoint& point = result.points[index];
    const Drift& drift = run.drift;
    table.add_row({to_string(point.shape), fmt::format("{:g}", point.threshold),
                   fmt::format("{:.3f}", drift.density.mean()), fmt::format("{:.4f}", point.row_kl_mean),
                   fmt::format("{:.5f}", drift.kl.mean()), fmt::format("{:.5f}", drift.kl_second_half.mean()),
                   fmt::format("{:+.4f}", drift.dce()), percent(drift.same_top1.mean()),
                   fmt::format("{:.2f}", std::exp(drift.sparse_ce.mean())),
                   fmt::format("{:.3f}", drift.logit_error.mean()),
                   fmt::format("{:.2f}", drift.logit_error_max),
                   fmt::format("{:.2f}", 100 * drift.relative_error.mean()),
                   fmt::format("{:.2f}", 100 * point.row_kl_mean)});
  }
  return table.to_string();
}

// Of the runs the one with the largest threshold that is not unsafe, else the one with the smallest
// threshold.
std::size_t shown_run(const SparsityResult& result) {
  std::size_t shown = result.drifts.begin()->first;
  for (const auto& [index, run] : result.drifts) {
    const SweepPoint &point = result.points[index], &best = result.points[shown];
    const bool safe = point.verdict != Verdict::kUnsafe, best_safe = best.verdict != Verdict::kUnsafe;
    if (safe != best_safe ? safe : safe == (point.threshold > best.threshold)) shown = index;
  }
  return shown;
}

std::string one_line(const std::string& text) {
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string samples_table(const SparsityResult& result) {
  const std::size_t shown = shown_run(result);
  const SweepPoint& point = result.points[shown];
  Table table({"likeliest next token", "position", "text", "dense", "sparse"});
  for (const TokenSample& one : result.drifts.at(shown).samples) {
    table.add_row({one_line(one.before), fmt::format("{}", one.position), one_line(one.next),
                   one_line(one.dense), one_line(one.sparse)});
  }
  return fmt::format("{} at {:g}:\n{}", to_string(point.shape), point.threshold, table.to_string());
}

std::string chosen_lines(const SparsityResult& result) {
  std::string lines;
  for (const ChosenThreshold& one : choose_thresholds(result.points)) {
    if (one.point < 0) {
      lines += fmt::format("{:<7} no threshold keeps the mean row KL under 0.1 and something of every row\n",
                           to_string(one.shape));
      continue;
    }
    const SweepPoint& point = result.points[one.point];
    lines += fmt::format("{:<7} {:g} (row KL {:.4f}, density {:.3f})\n", to_string(one.shape),
                         point.threshold, point.row_kl_mean, point.density);
  }
  return lines;
}

}  // namespace

double plain(float value) { return std::strtod(fmt::format("{}", value).c_str(), nullptr); }

json sparsity_json(const SparsityResult& result) {
  json report = {{"layers", json::array()}, {"sweep", json::array()}, {"chosen", chosen_json(result)}};
  for (std::int64_t layer = 0; layer < result.layers; ++layer)
    report["layers"].push_back(layer_json(result, layer));
  for (std::size_t i = 0; i < result.points.size(); ++i) report["sweep"].push_back(point_json(result, i));
  return report;
}

std::string sparsity_tables(const SparsityResult& result) {
  std::string text = fmt::format("Weights of each layer ({} heads); min and max over positions\n{}\n",
                                 result.heads, layers_table(result));
  text += fmt::format("Blocks whose largest weight is under a threshold\n{}\n", sweep_table(result));
  text += fmt::format("Largest threshold with a mean row KL under 0.1\n{}", chosen_lines(result));
  if (result.drifts.empty()) return text;
  text += fmt::format("\nEnd to end: these blocks excluded in every layer\n{}\n{}", drift_table(result),
                      samples_table(result));
  return text;
}

}  // namespace winnow::cli
