#include "analysis/attention_analysis.h"

#include <algorithm>

#include "core/check.h"
#include "core/error.h"

namespace winnow {
namespace {

void check_sound(const WeightRange& range, std::int64_t layer, std::int64_t head, const WeightChunk& chunk) {
  if (range.sound()) return;
  fail(ErrorCode::kBadFormat,
       "layer {}, head {}, queries {} to {}: the attention weights are no probabilities ({}, min {:g}, max "
       "{:g}, "
       "row sums off by up to {:g}); the model's weights are broken, or its numbers too large for "
       "--precision bf16",
       layer, head, chunk.first_row, chunk.first_row + chunk.rows - 1,
       range.finite ? "all finite" : "not all finite", range.min, range.max, range.row_sum_error);
}

}  // namespace

AttentionAnalysis::AttentionAnalysis(const AnalysisOptions& options, Backend& backend)
    : options_(options),
      backend_(backend),
      sweep_(options.shapes, options.thresholds, options.tokens / 2),
      totals_(options.shapes, options.thresholds, options.layers, options.heads, options.tokens),
      shares_(kWeightThresholds, options.layers, options.heads, options.tokens) {}

void AttentionAnalysis::observe(const AttentionView& view) {
  const auto rows = static_cast<std::int64_t>(view.query_rows.size());
  const std::int64_t first_row = view.query_rows[0], stride = view.kv->rows;
  check(stride <= options_.tokens && view.query_rows.back() == first_row + rows - 1,
        "the analysis reads whole prompts densely");
  if (weights_.bytes() < rows * stride * 4) weights_ = Buffer::host(rows * stride * 4);
  const WeightChunk chunk{weights_.as<float>(), stride, first_row, rows, view.window};
  for (std::int64_t head = 0; head < options_.heads; ++head) {
    backend_.attention_probs({.q = view.q,
                              .query_rows = view.query_rows,
                              .kv = view.kv,
                              .scale = view.scale,
                              .head = head,
                              .probs = {weights_.as<>(), DType::kF32, rows, stride},
                              .window = view.window});
    check_sound(shares_.add(view.layer, head, chunk), view.layer, head, chunk);
    totals_.add(view.layer, head, chunk, sweep_.sweep(chunk));
    if (tap_) tap_(view.layer, head, chunk);
  }
}

}  // namespace winnow
