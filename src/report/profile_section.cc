#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "report/html.h"
#include "report/sections.h"
#include "report/svg_chart.h"

namespace winnow {
namespace {

using nlohmann::json;

// The results by policy, in the order of the file.
std::vector<std::string> policies_of(const json& results) {
  std::vector<std::string> names;
  for (const json& row : results) {
    const std::string name = text_of(row, "policy");
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

std::vector<ChartSeries> over_length(const json& results, const std::function<double(const json&)>& value) {
  std::vector<ChartSeries> series;
  for (const std::string& policy : policies_of(results)) {
    series.push_back({policy, {}});
    for (const json& row : results) {
      if (text_of(row, "policy") == policy)
        series.back().points.push_back({number_of(row, "length"), value(row), ""});
    }
  }
  return series;
}

std::vector<ChartSeries> over_length(const json& results, const char* key) {
  return over_length(results, [key](const json& row) { return number_of(row, key); });
}

double longest(const json& results) {
  double length = 0;
  for (const json& row : results) length = std::fmax(length, number_of(row, "length"));
  return length;
}

// A value of each layer at the greatest length.
std::vector<ChartSeries> over_layers(const json& results,
                                     const std::function<std::vector<double>(const json&)>& values) {
  std::vector<ChartSeries> series;
  const double length = longest(results);
  for (const json& row : results) {
    if (number_of(row, "length") != length) continue;
    series.push_back({text_of(row, "policy"), {}});
    double layer = 0;
    for (const double value : values(row)) series.back().points.push_back({layer++, value, ""});
  }
  return series;
}

std::vector<double> layer_densities(const json& row) {
  std::vector<double> densities;
  for (const json& layer : list_of(row, "attention_layers")) densities.push_back(number_of(layer, "density"));
  return densities;
}

// Where a policy's gate left attention dense: its density alone would look as if the policy did nothing.
std::string gate_notes(const json& results) {
  std::string notes;
  for (const json& row : results) {
    const json& layers = list_of(row, "attention_layers");
    const auto gated = std::count_if(layers.begin(), layers.end(), [](const json& layer) {
      const std::string reason = text_of(layer, "gated");
      return reason == "short" || reason == "too dense";
    });
    if (gated == 0) continue;
    notes += paragraph(fmt::format(
        "Note: {} at {} tokens: in {} of {} layers some or all of the attention was computed in full, where "
        "skipping blocks is no faster.",
        text_of(row, "policy"), short_number(number_of(row, "length")), gated, layers.size()));
  }
  return notes;
}

const json* dense_row(const json& results, double length) {
  for (const json& row : results)
    if (text_of(row, "policy") == "dense" && number_of(row, "length") == length) return &row;
  return nullptr;
}

// Prefill, decode, total, speed-ups, memory: as such measurements are published.
std::string published_table(const json& results) {
  HtmlTable table({"policy", "length", "new", "prefill ms", "decode ms", "total ms", "prefill speed-up",
                   "total speed-up", "KV cache", "KV saved", "avgtok", "density"});
  for (const json& row : results) {
    const json* dense = dense_row(results, number_of(row, "length"));
    const double saved =
        dense == nullptr ? NAN : 1 - number_of(row, "kv_bytes") / number_of(*dense, "kv_bytes");
    table.add_row({text_of(row, "policy"), short_number(number_of(row, "length")),
                   short_number(number_of(row, "new_tokens")), short_number(number_of(row, "prefill_ms")),
                   short_number(number_of(row, "decode_ms")), short_number(number_of(row, "total_ms")),
                   times_text(number_of(row, "speedup_prefill")), times_text(number_of(row, "speedup_total")),
                   bytes_text(number_of(row, "kv_bytes")), percent_text(saved),
                   short_number(number_of(row, "avgtok")), short_number(number_of(row, "density"))});
  }
  return table.to_string(/*copyable=*/true);
}

}  // namespace

std::string profile_section(const ResultFile& file) {
  const json& results = list_of(file.content, "results");
  if (results.empty()) return "";
  const auto length_chart = [&](const char* title, const char* unit, std::vector<ChartSeries> series,
                                bool log_y) {
    return line_chart(
        series, {.title = title, .x_label = "prompt tokens", .y_label = unit, .log_x = true, .log_y = log_y});
  };
  std::string charts = length_chart("Prefill", "ms", over_length(results, "prefill_ms"), true);
  charts += length_chart("Total, prefill and decode", "ms", over_length(results, "total_ms"), true);
  charts +=
      length_chart("Speed-up of the prefill", "× dense", over_length(results, "speedup_prefill"), false);
  charts += length_chart("Speed-up in all", "× dense", over_length(results, "speedup_total"), false);
  charts += length_chart(
      "Key and value cache", "MB",
      over_length(results, [](const json& row) { return number_of(row, "kv_bytes") * 1e-6; }), false);
  charts += length_chart(
      "Memory of the process, at most", "MB",
      over_length(results, [](const json& row) { return number_of(row, "peak_memory_bytes") * 1e-6; }),
      false);
  const std::string at = "at " + short_number(longest(results)) + " tokens";
  charts += line_chart(
      over_layers(results, [](const json& row) { return numbers_of(row, "kv_lens"); }),
      {.title = "Cached tokens by layer, " + at, .x_label = "layer", .y_label = "cache rows", .bands = true});
  charts += line_chart(over_layers(results, layer_densities), {.title = "Attention density by layer, " + at,
                                                               .x_label = "layer",
                                                               .y_label = "density",
                                                               .bands = true});
  return section("Speed: " + file.name, paragraph(origin_text(file.content)) + published_table(results) +
                                            gate_notes(results) + "<div class=\"charts\">" + charts +
                                            "</div>\n");
}

}  // namespace winnow
