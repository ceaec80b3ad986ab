#include <fmt/format.h>

#include <cmath>
#include <map>

#include "report/html.h"
#include "report/sections.h"
#include "report/svg_chart.h"

namespace winnow {
namespace {

using nlohmann::json;

std::string block_of(const json& point) {
  return fmt::format("{}×{}", short_number(number_of(point, "block_q")),
                     short_number(number_of(point, "block_k")));
}

// Points of the sweep that were chosen as the largest safe threshold of their block; without any, all of
// them.
std::vector<const json*> chosen_points(const json& content) {
  std::vector<const json*> points;
  for (const json& point : list_of(content, "sweep")) {
    for (const json& one : list_of(content, "chosen")) {
      if (block_of(one) == block_of(point) && number_of(one, "threshold") == number_of(point, "threshold"))
        points.push_back(&point);
    }
  }
  if (points.empty())
    for (const json& point : list_of(content, "sweep")) points.push_back(&point);
  return points;
}

std::string density_by_layer(const json& content) {
  std::vector<ChartSeries> series;
  for (const json* point : chosen_points(content)) {
    series.push_back(
        {fmt::format("{} at {}", block_of(*point), short_number(number_of(*point, "threshold"))), {}});
    double layer = 0;
    for (const double density : numbers_of(object_of(*point, "by_layer"), "density"))
      series.back().points.push_back({layer++, density, ""});
  }
  return line_chart(series,
                    {.title = "Density by layer", .x_label = "layer", .y_label = "density", .bands = true});
}

std::string density_by_head(const json& content) {
  const auto points = chosen_points(content);
  if (points.empty()) return "";
  std::vector<std::vector<double>> rows;
  for (const json& layer : list_of(object_of(*points.front(), "by_layer"), "head_density")) {
    rows.emplace_back();
    if (!layer.is_array()) continue;
    for (const json& value : layer) rows.back().push_back(value.is_number() ? value.get<double>() : NAN);
  }
  return heat_map(rows, {.title = fmt::format("Density by head, {} at {}: strong colour is dense",
                                              block_of(*points.front()),
                                              short_number(number_of(*points.front(), "threshold"))),
                         .x_label = "head",
                         .y_label = "layer"});
}

// Share of causal weights below the first threshold, head by head.
std::string small_weights(const json& content) {
  std::vector<std::vector<double>> rows;
  std::string threshold;
  for (const json& layer : list_of(content, "layers")) {
    rows.emplace_back();
    for (const json& head : list_of(layer, "heads")) {
      const json& below = object_of(head, "below");
      if (below.empty()) continue;
      if (threshold.empty()) threshold = below.begin().key();
      rows.back().push_back(number_of(object_of(below, threshold.c_str()), "causal"));
    }
  }
  return heat_map(
      rows,
      {.title = "Share of attention weights below " + threshold, .x_label = "head", .y_label = "layer"});
}

std::string cost_of_density(const json& content) {
  std::map<std::string, ChartSeries> by_block;
  for (const json& point : list_of(content, "sweep")) {
    ChartSeries& series = by_block[block_of(point)];
    series.name = block_of(point);
    const double drift = number_of(object_of(point, "end_to_end"), "kl");
    series.points.push_back(
        {number_of(point, "density"), std::isfinite(drift) ? drift : number_of(point, "row_kl_mean"), ""});
  }
  std::vector<ChartSeries> series;
  for (auto& [block, one] : by_block) series.push_back(std::move(one));
  return line_chart(series, {.title = "What leaving out costs",
                             .x_label = "density",
                             .y_label = "KL, nats",
                             .log_y = true,
                             .lines = false});
}

std::string sweep_table(const json& content) {
  HtmlTable table(
      {"block", "threshold", "pruned", "density", "row KL", "KL end to end", "ΔCE", "same top 1", "verdict"});
  for (const json& point : list_of(content, "sweep")) {
    const json& run = object_of(point, "end_to_end");
    table.add_row({block_of(point), short_number(number_of(point, "threshold")),
                   percent_text(number_of(point, "pruned_causal")), short_number(number_of(point, "density")),
                   short_number(number_of(point, "row_kl_mean")), short_number(number_of(run, "kl")),
                   short_number(number_of(run, "dce")), percent_text(number_of(run, "top1")),
                   text_of(point, "verdict")});
  }
  return table.to_string(/*copyable=*/true);
}

}  // namespace

std::string sparsity_section(const ResultFile& file) {
  const json& content = file.content;
  return section("Attention: " + file.name, paragraph(origin_text(content)) + "<div class=\"charts\">" +
                                                density_by_layer(content) + density_by_head(content) +
                                                small_weights(content) + cost_of_density(content) +
                                                "</div>\n" + sweep_table(content));
}

}  // namespace winnow
