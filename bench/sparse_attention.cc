// How much faster attention is over a plan of blocks than dense: density x block shape, in chunks of 512
// queries as prefill runs it. Plans are random with the diagonal listed, one for each query head (or,
// --per-kv-head, for each kv head): neighbouring query blocks share keys by chance only, so real plans find
// more of them in the cache. Choosing blocks is not included.
//
//   sparse_attention [--heads 9 --kv-heads 3 --head-dim 64] [--tokens 8192] [--blocks 32x32,64x64]
//                    [--densities 1,0.25,0.1] [--repeats 9] [--threads 2] [--per-kv-head] [--f32] [--json]
//                    [--planned]
//
// --planned: blocks are chosen, and the time of choosing is included: the selector `pooled` (pools of 16, 2
// outliers, every 8th query, by maximum) with the threshold that gives the density, on rows that attend
// somewhat like a text, all at once, as a prefill does for each layer.
//
// Dense and sparse runs take turns; speed-ups are medians of the ratios within a turn. Density 1 forces a
// full plan through the sparse path. "cpu" compares processor time of all threads, which other programs
// disturb less.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/attention.h"
#include "backends/cpu/plan_attention.h"
#include "planted_qkv.h"

namespace winnow {
namespace {

constexpr std::int64_t kChunkRows = 512;

struct Options {
  std::int64_t heads = 9, kv_heads = 3, head_dim = 64, tokens = 8192;
  int threads = 2, repeats = 9;
  std::vector<std::string> blocks = {"16x16", "32x16", "32x32", "64x64", "128x128"};
  std::vector<double> densities = {1, 0.5, 0.25, 0.1, 0.05};
  bool per_kv_head = false, planned = false, f32 = false, json = false;
};

// A layer whose caches and queries are random, or planted.
class Layer {
 public:
  explicit Layer(const Options& options)
      : options_(options),
        backend_(make_cpu_backend(options.f32 ? Precision::kF32 : Precision::kBF16, options.threads)),
        q_(backend_->allocate(options.tokens * row_bytes())),
        out_(backend_->allocate(options.tokens * row_bytes())),
        rows_(static_cast<std::size_t>(options.tokens)) {
    std::iota(rows_.begin(), rows_.end(), 0);
    kv_.kv_heads = options.kv_heads;
    kv_.head_dim = options.head_dim;
    backend_->reserve(kv_, options.tokens);
    if (options.planned) {
      planted_ = planted_qkv(options.tokens, options.heads, options.kv_heads, options.head_dim);
    }
    for (std::int64_t begin = 0; begin < options.tokens; begin += kChunkRows) append(begin);
  }

  Backend& backend() const { return *backend_; }
  const LayerKv& kv() const { return kv_; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(options_.head_dim)); }
  MatrixView all_queries() const { return view(q_); }
  std::span<const std::int64_t> all_rows() const { return rows_; }

  std::span<const std::int64_t> rows_of(std::int64_t begin) const {
    return std::span(rows_).subspan(begin, std::min(kChunkRows, options_.tokens - begin));
  }
  AttentionParams params(std::int64_t begin) const {
    const auto count = static_cast<std::int64_t>(rows_of(begin).size());
    return {.q = view(q_).slice(begin, count),
            .query_rows = rows_of(begin),
            .kv = &kv_,
            .scale = scale(),
            .out = view(out_).slice(begin, count)};
  }
  const cpu::TileKernels& kernels() const {
    return cpu::choose_tile_kernels(backend_->compute_dtype(), options_.head_dim);
  }

 private:
  std::int64_t row_bytes() const {
    return dtype_bytes(backend_->compute_dtype(), options_.heads * options_.head_dim);
  }
  MatrixView view(const Buffer& buffer) const {
    return {buffer.as<>(), backend_->compute_dtype(), options_.tokens, options_.heads * options_.head_dim};
  }

  void append(std::int64_t begin) {
    const auto count = static_cast<std::int64_t>(rows_of(begin).size());
    const std::int64_t cols = (options_.heads + 2 * options_.kv_heads) * options_.head_dim;
    const Buffer floats = backend_->allocate(count * cols * 4), qkv = backend_->allocate(count * cols * 4);
    std::mt19937 generator(static_cast<unsigned>(begin));
    std::normal_distribution<float> normal;
    if (planted_.empty()) {
      std::generate_n(floats.as<float>(), count * cols, [&] { return normal(generator); });
    } else {
      std::copy_n(planted_.begin() + begin * cols, count * cols, floats.as<float>());
    }
    const MatrixView x{qkv.as<>(), backend_->compute_dtype(), count, cols};
    backend_->convert({floats.as<>(), DType::kF32, count, cols}, x);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(count));
    std::iota(positions.begin(), positions.end(), static_cast<std::int32_t>(begin));
    const RopeTable no_rope;
    backend_->rope_append(
        {.qkv = x, .positions = positions, .rope = &no_rope, .q = view(q_).slice(begin, count), .kv = &kv_});
  }

  Options options_;
  std::unique_ptr<Backend> backend_;
  LayerKv kv_;
  Buffer q_, out_;
  std::vector<std::int64_t> rows_;
  std::vector<float> planted_;
};

// Blocks on the diagonal, and others with the probability that makes the whole prompt `density`.
BlockPlan random_plan(BlockPlan full, std::span<const std::int64_t> rows, double density,
                      std::mt19937& generator) {
  std::bernoulli_distribution listed(density);
  std::vector<std::int32_t> blocks;
  std::vector<std::int64_t> offsets = {0};
  for (std::int64_t head = 0; head < full.heads; ++head) {
    for (std::int64_t i = 0; i < full.query_blocks; ++i) {
      for (const std::int32_t block : full.row(head, i)) {
        const bool diagonal = (block + 1) * full.k_block > rows[i * full.q_block];
        if (diagonal || listed(generator)) blocks.push_back(block);
      }
      offsets.push_back(static_cast<std::int64_t>(blocks.size()));
    }
  }
  full.blocks = std::move(blocks);
  full.offsets = std::move(offsets);
  return full;
}

// One way to run all chunks. Without plans and a rule: dense.
struct Variant {
  std::int64_t q_block = 0, k_block = 0;
  std::vector<BlockPlan> plans = {};   // of the chunks
  std::optional<BlockRule> rule = {};  // chooses blocks anew in every run, by `threshold`
  float threshold = 0;
  double pairs = 0;  // computed, mean over the heads
  double density = 1;
  std::vector<double> wall_ms = {}, cpu_ms = {}, plan_ms = {};
};

// The probability for blocks off the diagonal that gives the density wanted: two tries settle it.
Variant make_variant(const Layer& layer, const Options& options, std::int64_t q_block, std::int64_t k_block,
                     double density) {
  double probability = density;
  Variant variant;
  for (int attempt = 0; attempt < 4; ++attempt) {
    std::mt19937 generator(1);
    variant = {.q_block = q_block, .k_block = k_block};
    double causal = 0;
    for (std::int64_t begin = 0; begin < options.tokens; begin += kChunkRows) {
      const std::span<const std::int64_t> rows = layer.rows_of(begin);
      variant.plans.push_back(random_plan(
          full_plan(q_block, k_block, options.per_kv_head ? options.kv_heads : options.heads, rows), rows,
          probability, generator));
      const PlanWork work = plan_work(variant.plans.back(), rows);
      variant.pairs += work.computed;
      causal += work.causal;
    }
    variant.density = variant.pairs / causal;
    if (density >= 1) break;
    probability = std::clamp(probability + density - variant.density, 0.0, 1.0);
  }
  return variant;
}

// Runs a layer's chunks over the blocks that are chosen for them, all at once, as a prefill does.
PlanWork run_planned(const Layer& layer, const Options& options, Variant& variant, bool attend) {
  const auto start = std::chrono::steady_clock::now();
  const MatrixView q = layer.all_queries();
  const std::int64_t last = std::min<std::int64_t>(64, q.rows);
  const auto planner =
      layer.backend().make_planner({.rule = *variant.rule,
                                    .thresholds = std::vector<float>(options.heads, variant.threshold),
                                    .kv = &layer.kv(),
                                    .scale = layer.scale(),
                                    .last_q = q.slice(q.rows - last, last)});
  BlockPlan whole, chunk;
  planner->plan(q, layer.all_rows(), whole);
  variant.plan_ms.push_back(
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  if (!attend) return plan_work(whole, layer.all_rows());
  for (std::int64_t begin = 0; begin < options.tokens; begin += kChunkRows) {
    AttentionParams params = layer.params(begin);
    slice_plan(whole, begin / variant.q_block, block_count(params.q.rows, variant.q_block), chunk);
    params.plan = &chunk;
    cpu::attention(params, layer.kernels(), options.threads);
  }
  return {};
}

// The threshold is found by bisection.
Variant make_planned_variant(const Layer& layer, const Options& options, std::int64_t q_block,
                             std::int64_t k_block, double density) {
  Variant variant{.q_block = q_block, .k_block = k_block};
  variant.rule = {.estimator = BlockEstimator::kPooled,
                  .criterion = BlockCriterion::kMaximum,
                  .q_block = q_block,
                  .k_block = k_block,
                  .outliers = 2,
                  .query_stride = 8};
  double low = 0, high = 1;  // the threshold lies between their squares
  for (int attempt = 0; attempt < 12; ++attempt) {
    const double root = (low + high) / 2;
    variant.threshold = static_cast<float>(root * root);
    const PlanWork work = run_planned(layer, options, variant, false);
    variant.pairs = work.computed;
    variant.density = work.density();
    (variant.density > density ? low : high) = root;
  }
  variant.plan_ms.clear();
  return variant;
}

double processor_ms() { return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

void run(const Layer& layer, const Options& options, Variant& variant) {
  const auto start = std::chrono::steady_clock::now();
  const double cpu_start = processor_ms();
  if (variant.rule) run_planned(layer, options, variant, true);
  for (std::int64_t begin = 0; !variant.rule && begin < options.tokens; begin += kChunkRows) {
    AttentionParams params = layer.params(begin);
    if (variant.plans.empty()) {
      cpu::attention(params, layer.kernels(), options.threads);
    } else {
      params.plan = &variant.plans[begin / kChunkRows];
      cpu::plan_attention(params, layer.kernels(), options.threads);
    }
  }
  variant.cpu_ms.push_back(processor_ms() - cpu_start);
  variant.wall_ms.push_back(
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
double median_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios(a.size());
  std::transform(a.begin(), a.end(), b.begin(), ratios.begin(), std::divides<>());
  return median(ratios);
}

void print(const Options& options, const Variant& dense, const std::vector<Variant>& variants) {
  nlohmann::json rows = nlohmann::json::array();
  if (!options.json) {
    fmt::print("{:>9} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "block", "density", "ms", "speed-up",
               "cpu ms", "speed-up", "GFLOP/s", "plan ms");
  }
  for (const Variant* v = &dense;; v = v == &dense ? variants.data() : v + 1) {
    if (v == variants.data() + variants.size()) break;
    const double wall = median(v->wall_ms), cpu = median(v->cpu_ms);
    const double flops = 4.0 * static_cast<double>(options.head_dim * options.heads) * v->pairs;
    const double speedup = median_ratio(dense.wall_ms, v->wall_ms),
                 cpu_speedup = median_ratio(dense.cpu_ms, v->cpu_ms);
    const double plan = v->plan_ms.empty() ? 0.0 : median(v->plan_ms);
    const std::string block = v == &dense ? "dense" : fmt::format("{}x{}", v->q_block, v->k_block);
    if (options.json) {
      rows.push_back({{"block", block},
                      {"density", v->density},
                      {"ms", wall},
                      {"speedup", speedup},
                      {"cpu_ms", cpu},
                      {"cpu_speedup", cpu_speedup},
                      {"gflops", flops / wall * 1e-6},
                      {"plan_ms", plan}});
    } else {
      fmt::print("{:>9} {:>8.3f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.0f} {:>9.2f}\n", block, v->density,
                 wall, speedup, cpu, cpu_speedup, flops / wall * 1e-6, plan);
    }
  }
  if (options.json) {
    fmt::print("{}\n", nlohmann::json{{"heads", options.heads},
                                      {"kv_heads", options.kv_heads},
                                      {"head_dim", options.head_dim},
                                      {"tokens", options.tokens},
                                      {"threads", options.threads},
                                      {"plan_per", options.per_kv_head ? "kv_head" : "head"},
                                      {"precision", options.f32 ? "f32" : "bf16"},
                                      {"repeats", options.repeats},
                                      {"rows", rows}}
                           .dump(2));
  }
}

int measure(const Options& options) {
  const Layer layer(options);
  Variant dense;
  dense.pairs = 0.5 * static_cast<double>(options.tokens) * static_cast<double>(options.tokens + 1);
  std::vector<Variant> variants;
  for (const std::string& block : options.blocks) {
    const std::size_t x = block.find('x');
    if (x == std::string::npos)
      fail(ErrorCode::kBadArgument, "--blocks {}: write QUERIESxKEYS, as in 32x16", block);
    for (const double density : options.densities) {
      const auto make = options.planned ? make_planned_variant : make_variant;
      variants.push_back(
          make(layer, options, std::stoll(block.substr(0, x)), std::stoll(block.substr(x + 1)), density));
    }
  }
  run(layer, options, dense);  // warm
  dense.wall_ms.clear();
  dense.cpu_ms.clear();
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    run(layer, options, dense);
    for (Variant& variant : variants) run(layer, options, variant);
  }
  print(options, dense, variants);
  return 0;
}

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  winnow::Options options;
  CLI::App app("Attention over a plan of blocks against dense attention");
  app.add_option("--heads", options.heads);
  app.add_option("--kv-heads", options.kv_heads);
  app.add_option("--head-dim", options.head_dim);
  app.add_option("--tokens", options.tokens);
  app.add_option("--threads", options.threads);
  app.add_option("--repeats", options.repeats)->check(CLI::PositiveNumber);
  app.add_option("--blocks", options.blocks, "QUERIESxKEYS,...")->delimiter(',');
  app.add_option("--densities", options.densities)->delimiter(',');
  app.add_flag("--per-kv-head", options.per_kv_head, "one plan for the heads of a GQA group");
  app.add_flag("--planned", options.planned, "choose the blocks, and count the time it takes");
  app.add_flag("--f32", options.f32);
  app.add_flag("--json", options.json);
  CLI11_PARSE(app, argc, argv);
  return winnow::measure(options);
}
