// What planning costs: time of every estimator over a whole prompt, in chunks of 512 queries as a prefill
// asks for them, against dense attention over the same chunks; and the density of what was planned. One layer
// of the demo model's shape (SmolLM2-135M), bf16. Rules take turns with dense attention within a round;
// medians.
// With --threads 1 the times are CPU time of that thread.
//   build/release/bin/block_planning [--rounds N] [--threads N] [--lengths 2048,4096] [--rules TEXT] [--json]
// --rules: only those with TEXT in their names.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "core/error.h"
#include "planted_qkv.h"

namespace winnow {
namespace {

constexpr std::int64_t kHeads = 9, kKvHeads = 3, kHeadDim = 64, kChunk = 512;
constexpr float kScale = 0.125f;  // 1 / sqrt(kHeadDim)

struct Options {
  int rounds = 7, threads = 2;
  std::vector<std::int64_t> lengths{2048, 4096, 8192};
  std::string rules;
  bool json = false;
};

struct NamedRule {
  std::string name;
  BlockRule rule;
  float threshold;
};

std::vector<NamedRule> all_rules() {
  using enum BlockEstimator;
  using enum BlockCriterion;
  const auto with_blocks = [](BlockRule rule, std::int64_t q_block, std::int64_t k_block) {
    rule.q_block = q_block;
    rule.k_block = k_block;
    return rule;
  };
  const BlockRule pooled{.estimator = kPooled};
  BlockRule maximum = pooled, every_second = pooled, variance = pooled, means = pooled;
  maximum.criterion = kMaximum;
  every_second.query_stride = 2;
  BlockRule maximum_second = maximum;
  maximum_second.query_stride = 2;
  BlockRule outliers = maximum;
  outliers.outliers = 2;
  outliers.query_stride = 8;
  variance.variance = true;
  means.mean_correction = true;
  return {{"sink and local", {.estimator = kNone}, 0},
          {"pooled 16, mass", pooled, 0.9f},
          {"pooled 16, mass, every 2nd query", every_second, 0.9f},
          {"pooled 16, mass, variance", variance, 0.9f},
          {"pooled 16, mass, means", means, 0.9f},
          {"pooled 16, mass, blocks 16x16", with_blocks(pooled, 16, 16), 0.9f},
          {"pooled 16, mass, blocks 64x64", with_blocks(pooled, 64, 64), 0.9f},
          {"pooled 16, maximum", maximum, 0.02f},
          {"pooled 16, maximum, 2 outliers, every 8th query", outliers, 0.02f},
          {"pooled 16, maximum, every 2nd query", maximum_second, 0.02f},
          {"antidiagonal 8, mass", {.estimator = kAntidiagonal}, 0.9f},
          {"antidiagonal 16, mass", {.estimator = kAntidiagonal, .stride = 16}, 0.9f},
          {"vertical slash", {.estimator = kVerticalSlash}, 0.9f},
          {"exact, mass", {.estimator = kExact}, 0.9f}};
}

// One layer's queries and cache.
struct Layer {
  LayerKv kv;
  Buffer q;
  MatrixView q_view;
  std::vector<std::int64_t> rows;
};

// Without structure: attention is nearly uniform, the worst case of a choice by mass.
std::vector<float> random_qkv(std::int64_t tokens) {
  std::mt19937 random(1);
  return noise(random, tokens * (kHeads + 2 * kKvHeads) * kHeadDim);
}

Layer make_layer(Backend& backend, const std::vector<float>& qkv) {
  constexpr std::int64_t kCols = (kHeads + 2 * kKvHeads) * kHeadDim;
  const auto tokens = static_cast<std::int64_t>(qkv.size()) / kCols;
  Layer layer;
  layer.kv.kv_heads = kKvHeads;
  layer.kv.head_dim = kHeadDim;
  backend.reserve(layer.kv, tokens);
  const Buffer rounded = backend.allocate(tokens * kCols * 2);
  for (std::size_t i = 0; i < qkv.size(); ++i) rounded.as<BF16>()[i] = to_bf16(qkv[i]);
  layer.q = backend.allocate(tokens * kHeads * kHeadDim * 2);
  layer.q_view = {layer.q.as<>(), DType::kBF16, tokens, kHeads * kHeadDim};
  std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
  std::iota(positions.begin(), positions.end(), 0);
  const RopeTable no_rope;
  backend.rope_append({.qkv = {rounded.as<>(), DType::kBF16, tokens, kCols},
                       .positions = positions,
                       .rope = &no_rope,
                       .q = layer.q_view,
                       .kv = &layer.kv});
  layer.rows.assign(positions.begin(), positions.end());
  return layer;
}

template <class Fn>
void for_each_chunk(const Layer& layer, Fn fn) {
  for (std::int64_t begin = 0; begin < layer.q_view.rows; begin += kChunk) {
    const std::int64_t count = std::min(kChunk, layer.q_view.rows - begin);
    fn(layer.q_view.slice(begin, count),
       std::span(layer.rows).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)));
  }
}

// With one thread its CPU time, which other work on the machine hardly disturbs; otherwise time passed.
double milliseconds(int threads, const std::function<void()>& work) {
  const auto now = [&] {
    timespec time{};
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
  };
  const double begin = now();
  work();
  return now() - begin;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void attend(Backend& backend, const Layer& layer, const Buffer& out) {
  for_each_chunk(layer, [&](const MatrixView& q, std::span<const std::int64_t> rows) {
    backend.attention({.q = q,
                       .query_rows = rows,
                       .kv = &layer.kv,
                       .scale = kScale,
                       .out = {out.as<>(), DType::kBF16, q.rows, q.cols}});
  });
}

// The planner's construction included, as a prefill makes one for each layer. Returns the density.
double plan(Backend& backend, const Layer& layer, const NamedRule& named, bool measure_density) {
  const std::int64_t last = std::min<std::int64_t>(64, layer.q_view.rows);
  const auto planner = backend.make_planner({.rule = named.rule,
                                             .thresholds = std::vector<float>(kHeads, named.threshold),
                                             .kv = &layer.kv,
                                             .scale = kScale,
                                             .last_q = layer.q_view.slice(layer.q_view.rows - last, last)});
  PlanWork work;
  BlockPlan plan;
  for_each_chunk(layer, [&](const MatrixView& q, std::span<const std::int64_t> rows) {
    planner->plan(q, rows, plan);
    if (!measure_density) return;
    const PlanWork chunk = plan_work(plan, rows);
    work.computed += chunk.computed;
    work.causal += chunk.causal;
  });
  return work.density();
}

nlohmann::json measure(Backend& backend, const char* data, const Layer& layer, const Options& options) {
  std::vector<NamedRule> named = all_rules();
  std::erase_if(named,
                [&](const NamedRule& rule) { return rule.name.find(options.rules) == std::string::npos; });
  std::vector<double> density, dense_ms;
  std::vector<std::vector<double>> plan_ms(named.size());
  const Buffer out = backend.allocate(kChunk * kHeads * kHeadDim * 2);
  attend(backend, layer, out);
  for (const NamedRule& rule : named) density.push_back(plan(backend, layer, rule, true));
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t i = 0; i < named.size(); ++i) {
      dense_ms.push_back(milliseconds(options.threads, [&] { attend(backend, layer, out); }));
      plan_ms[i].push_back(milliseconds(options.threads, [&] { plan(backend, layer, named[i], false); }));
    }
  }
  const double dense = median(dense_ms);
  nlohmann::json results = nlohmann::json::array();
  if (!options.json) fmt::print("\n{}, {} tokens: dense attention {:.2f} ms\n", data, layer.kv.rows, dense);
  for (std::size_t i = 0; i < named.size(); ++i) {
    const double ms = median(plan_ms[i]);
    if (!options.json) {
      fmt::print("  {:48} {:8.3f} ms {:6.1f} %   density {:.3f}\n", named[i].name, ms, 100 * ms / dense,
                 density[i]);
    }
    results.push_back({{"data", data},
                       {"tokens", layer.kv.rows},
                       {"rule", named[i].name},
                       {"threshold", named[i].threshold},
                       {"plan_ms", ms},
                       {"dense_ms", dense},
                       {"share", ms / dense},
                       {"density", density[i]}});
  }
  return results;
}

std::int64_t parse_number(const std::string& flag, const std::string& text) {
  std::size_t end = 0;
  std::int64_t value = 0;
  try {
    value = std::stoll(text, &end);
  } catch (const std::exception&) {
  }
  if (value <= 0 || end != text.size()) {
    fail(ErrorCode::kBadArgument, "{} {}: must be a positive number", flag, text);
  }
  return value;
}

Options parse(std::span<char*> arguments) {
  Options options;
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::string flag = arguments[i];
    if (flag == "--json") {
      options.json = true;
      continue;
    }
    if (i + 1 == arguments.size()) fail(ErrorCode::kBadArgument, "{}: needs a value, or is unknown", flag);
    std::istringstream values(arguments[++i]);
    if (flag == "--rounds") {
      options.rounds = static_cast<int>(parse_number(flag, values.str()));
    } else if (flag == "--threads") {
      options.threads = static_cast<int>(parse_number(flag, values.str()));
    } else if (flag == "--rules") {
      options.rules = values.str();
    } else if (flag == "--lengths") {
      options.lengths.clear();
      for (std::string length; std::getline(values, length, ',');) {
        options.lengths.push_back(parse_number(flag, length));
      }
    } else {
      fail(ErrorCode::kBadArgument, "{}: unknown; --rounds, --threads, --lengths, --rules and --json exist",
           flag);
    }
  }
  return options;
}

void run(const Options& options) {
  const auto backend = make_cpu_backend(Precision::kBF16, options.threads);
  nlohmann::json results = nlohmann::json::array();
  if (!options.json) fmt::print("{}, {} rounds\n", backend->description(), options.rounds);
  for (const std::int64_t tokens : options.lengths) {
    for (const auto& [data, qkv] : {std::pair{"random", random_qkv(tokens)},
                                    {"planted", planted_qkv(tokens, kHeads, kKvHeads, kHeadDim)}}) {
      for (nlohmann::json& result : measure(*backend, data, make_layer(*backend, qkv), options)) {
        results.push_back(std::move(result));
      }
    }
  }
  if (!options.json) return;
  fmt::print(
      "{}\n",
      nlohmann::json{{"backend", backend->description()}, {"rounds", options.rounds}, {"results", results}}
          .dump(2));
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  try {
    winnow::run(winnow::parse({argv, static_cast<std::size_t>(argc)}));
  } catch (const winnow::Error& error) {
    fmt::print(stderr, "block_planning: {}\n", error.what());
    return error.code() == winnow::ErrorCode::kBadArgument ? 2 : 1;
  }
}
