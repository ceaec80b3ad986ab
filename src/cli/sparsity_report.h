// What `winnow sparsity` found, as JSON and as tables.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "analysis/attention_analysis.h"
#include "analysis/end_to_end.h"

namespace winnow::cli {

// The likeliest next tokens at one position, as text.
struct TokenSample {
  std::string prompt;
  std::int64_t position = 0;
  std::string before, next, dense,
      sparse;  // the text read so far (its end), what followed, what each expects
};

struct EndToEnd {
  Drift drift;
  std::vector<TokenSample> samples;
};

struct SparsityResult {
  const AttentionAnalysis* analysis = nullptr;
  std::vector<BlockShape> shapes;          // of the analysis
  std::vector<float> thresholds;           // of the analysis
  std::vector<SweepPoint> points;          // those asked for
  std::map<std::size_t, EndToEnd> drifts;  // by index into points
  std::int64_t layers = 0, heads = 0, tokens = 0;
};

// {layers, sweep, chosen}; docs/sparsity.md describes the fields.
nlohmann::json sparsity_json(const SparsityResult& result);

std::string sparsity_tables(const SparsityResult& result);

// 0.1f as 0.1, not as the double nearest to it.
double plain(float value);

}  // namespace winnow::cli
