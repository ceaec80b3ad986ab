// What policies cost in quality: eval, calibrate's frontier, policy files.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "report/html.h"
#include "report/sections.h"
#include "report/svg_chart.h"

namespace winnow {
namespace {

using nlohmann::json;

std::string interval_text(const json& row) {
  const std::vector<double> interval = numbers_of(row, "ci95");
  const std::string value = short_number(number_of(row, "value"));
  return interval.size() != 2
             ? value
             : fmt::format("{} [{}, {}]", value, short_number(interval[0]), short_number(interval[1]));
}

bool any_row(const json& rows, const std::function<bool(const json&)>& holds) {
  return std::any_of(rows.begin(), rows.end(), holds);
}

// What a reader of the table may miss or wonder at.
std::string eval_legend(const json& results) {
  std::string legend;
  if (any_row(results, [](const json& row) { return numbers_of(row, "ci95").size() != 2; }))
    legend += paragraph("A value without an interval is of too few items (n) for one.");
  if (any_row(results, [](const json& row) { return number_of(row, "gated") > 0; })) {
    legend += paragraph(
        "Gated: the share of the attention that a policy left dense, where skipping blocks is no faster "
        "(short prompts).");
  }
  return legend;
}

std::string eval_scatter(const json& results) {
  std::vector<ChartSeries> series;
  for (const json& row : results) {
    if (text_of(row, "task") != "kl") continue;
    const std::string length = short_number(number_of(row, "length")) + " tokens";
    const auto known = std::find_if(series.begin(), series.end(),
                                    [&](const ChartSeries& one) { return one.name == length; });
    ChartSeries& one = known == series.end() ? series.emplace_back(ChartSeries{length, {}}) : *known;
    one.points.push_back({number_of(row, "ttft_ms"), number_of(row, "value"), text_of(row, "policy")});
  }
  return line_chart(series, {.title = "Speed against quality",
                             .x_label = "time to the first token, ms",
                             .y_label = "KL, nats",
                             .lines = false});
}

bool flag_of(const json& row, const char* key) {
  return row.is_object() && row.value(key, json(false)) == true;
}

// What a row of the frontier was measured on, or as.
const char* set_of(const json& row) {
  return flag_of(row, "baseline") ? "baseline" : flag_of(row, "held_out") ? "held out" : "search set";
}

// Evictions after a dense prefill have no time of their own: they stand where dense does.
double speedup_of(const json& row) {
  const double speedup = number_of(row, "speedup");
  return flag_of(row, "baseline") && !std::isfinite(speedup) ? 1 : speedup;
}

std::string frontier_chart(const json& frontier, const char* key, const std::string& label, bool log_y) {
  std::vector<ChartSeries> sets{{"held out", {}}, {"search set", {}}, {"baseline", {}}};
  for (const json& row : frontier) {
    for (ChartSeries& set : sets) {
      if (set.name != set_of(row)) continue;
      set.points.push_back(
          {speedup_of(row), number_of(row, key), set.name == "search set" ? "" : text_of(row, "policy")});
    }
  }
  return line_chart(sets, {.title = "Speed against " + label,
                           .x_label = "speed-up",
                           .y_label = label,
                           .log_y = log_y,
                           .lines = false});
}

// With dense's of the same questions, where it was asked them.
std::string second_question_text(const json& row) {
  const std::string share = percent_text(number_of(row, "second_question_niah"));
  const double dense = number_of(row, "second_question_niah_dense");
  return std::isfinite(dense) ? fmt::format("{} (dense {})", share, percent_text(dense)) : share;
}

// signal.recall is [layers][heads].
ChartSeries recall_by_layer(const json& signal) {
  ChartSeries series{"recall", {}};
  const std::vector<double> recall = numbers_of(signal, "recall");
  const double heads = number_of(signal, "heads");
  if (!(heads >= 1)) return series;
  for (std::size_t i = 0; i < recall.size(); ++i) {
    const double layer = std::floor(static_cast<double>(i) / heads);
    if (series.points.empty() || series.points.back().x < layer)
      series.points.push_back({layer, recall[i], ""});
    series.points.back().y = std::fmax(series.points.back().y, recall[i]);
  }
  return series;
}

}  // namespace

std::string eval_section(const ResultFile& file) {
  const json& results = list_of(file.content, "results");
  HtmlTable table({"policy", "task", "length", "metric", "value [95%]", "n", "TTFT ms", "speed-up", "avgtok",
                   "density", "gated"});
  for (const json& row : results) {
    table.add_row({text_of(row, "policy"), text_of(row, "task"), short_number(number_of(row, "length")),
                   text_of(row, "metric"), interval_text(row), short_number(number_of(row, "n")),
                   short_number(number_of(row, "ttft_ms")), times_text(number_of(row, "speedup")),
                   short_number(number_of(row, "avgtok")), short_number(number_of(row, "density")),
                   percent_text(number_of(row, "gated"))});
  }
  std::string notes;
  for (const json& note : list_of(file.content, "notes"))
    if (note.is_string()) notes += paragraph("Note: " + note.get<std::string>());
  return section("Quality: " + file.name,
                 paragraph(origin_text(file.content)) + "<div class=\"charts\">" + eval_scatter(results) +
                     "</div>\n" + table.to_string(/*copyable=*/true) + eval_legend(results) + notes);
}

std::string frontier_section(const ResultFile& file) {
  const json& frontier = list_of(file.content, "frontier");
  HtmlTable table({"policy", "set", "KL", "ΔCE", "niah", "second question", "speed-up", "avgtok", "density"});
  for (const json& row : frontier) {
    table.add_row({text_of(row, "policy"), set_of(row), short_number(number_of(row, "kl")),
                   short_number(number_of(row, "dce")), percent_text(number_of(row, "niah")),
                   second_question_text(row), times_text(number_of(row, "speedup")),
                   short_number(number_of(row, "avgtok")), short_number(number_of(row, "density"))});
  }
  const std::string charts = frontier_chart(frontier, "kl", "KL, nats", true) +
                             frontier_chart(frontier, "niah", "needles found", false) +
                             line_chart({recall_by_layer(object_of(file.content, "signal"))},
                                        {.title = "Needles among a head's best 10% of the tokens",
                                         .x_label = "layer",
                                         .y_label = "recall of its best head",
                                         .bands = true});
  return section("Calibration: " + file.name, paragraph(origin_text(file.content)) +
                                                  "<div class=\"charts\">" + charts + "</div>\n" +
                                                  table.to_string(/*copyable=*/true));
}

std::string policy_section(const ResultFile& file) {
  HtmlTable stages({"stage before layer", "keeps"});
  for (const json& stage : list_of(object_of(file.content, "tokens"), "stages")) {
    const double keep = number_of(stage, "keep");
    stages.add_row(
        {short_number(number_of(stage, "layer")),
         std::isfinite(keep) ? percent_text(keep) : "top_p " + short_number(number_of(stage, "top_p"))});
  }
  HtmlTable measured({"measured", "value"});
  for (const auto& [key, value] : object_of(file.content, "measured").items())
    if (value.is_number()) measured.add_row({key, short_number(value.get<double>())});
  const std::string selector = text_of(object_of(file.content, "attention"), "selector");
  return section("Policy: " + file.name,
                 paragraph("Scorer " + text_of(object_of(file.content, "tokens"), "scorer") +
                           (selector.empty() ? "" : ", attention " + selector) + ".") +
                     "<div class=\"charts\">" + (stages.empty() ? "" : stages.to_string()) +
                     (measured.empty() ? "" : measured.to_string()) + "</div>\n");
}

}  // namespace winnow
