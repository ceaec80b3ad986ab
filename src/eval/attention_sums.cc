#include "eval/attention_sums.h"

#include <algorithm>

#include "core/check.h"

namespace winnow {

AttentionSums::AttentionSums(const Engine& engine, std::int64_t window)
    : engine_(engine), window_(window), sums_(static_cast<std::size_t>(engine.arch().layers)) {}

void AttentionSums::add(const AttentionView& view) {
  const std::int64_t heads = engine_.arch().heads, rows = view.kv->rows;
  std::int64_t first = 0;  // of the queries that count
  while (first < std::ssize(view.query_rows) && rows - view.query_rows[first] > window_) ++first;
  const std::int64_t count = std::ssize(view.query_rows) - first;
  std::vector<double>& sums = sums_[view.layer];
  sums.resize(static_cast<std::size_t>(heads * rows));
  if (count == 0) return;
  if (const std::int64_t bytes = count * rows * 4; bytes > probs_bytes_) {
    probs_ = Buffer::host(bytes);
    probs_bytes_ = bytes;
  }
  const MatrixView probs{probs_.as<>(), DType::kF32, count, rows};
  for (std::int64_t h = 0; h < heads; ++h) {
    engine_.backend().attention_probs({.q = view.q.slice(first, count),
                                       .query_rows = view.query_rows.subspan(first),
                                       .kv = view.kv,
                                       .scale = view.scale,
                                       .head = h,
                                       .probs = probs,
                                       .window = view.window});
    double* of_head = sums.data() + h * rows;
    for (std::int64_t i = 0; i < count; ++i) {
      const float* row = probs.row<float>(i);
      for (std::int64_t j = 0; j <= view.query_rows[first + i]; ++j) of_head[j] += row[j];
    }
  }
}

std::span<const double> AttentionSums::head(std::int64_t layer, std::int64_t head) const {
  const std::vector<double>& sums = sums_[layer];
  const std::size_t rows = sums.size() / static_cast<std::size_t>(engine_.arch().heads);
  return std::span(sums).subspan(static_cast<std::size_t>(head) * rows, rows);
}

std::vector<float> AttentionSums::mean_over_heads(std::int64_t layer) const {
  const std::int64_t heads = engine_.arch().heads;
  std::vector<double> total(head(layer, 0).size());
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += head(layer, h)[i];
  }
  std::vector<float> result;
  for (const double sum : total) result.push_back(static_cast<float>(sum / static_cast<double>(heads)));
  return result;
}

std::vector<float> AttentionSums::max_over_heads(std::int64_t layer) const {
  std::vector<float> result(head(layer, 0).size());
  for (std::int64_t h = 0; h < engine_.arch().heads; ++h) {
    for (std::size_t i = 0; i < result.size(); ++i) {
      result[i] = std::max(result[i], static_cast<float>(head(layer, h)[i]));
    }
  }
  return result;
}

}  // namespace winnow
