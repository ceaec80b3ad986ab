#include "runtime/attention_costs.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "core/atomic_file.h"
#include "core/cpu_info.h"
#include "core/error.h"

namespace winnow {
namespace {

using nlohmann::json;

constexpr std::int64_t kFileVersion = 1;

// The shortest of several runs after a warm-up, in nanoseconds: what else the machine does only adds, and
// what is measured here is kept.
double shortest_ns(const std::function<void()>& body) {
  constexpr int kMinRuns = 5, kMaxRuns = 20;
  constexpr double kEnoughNs = 6e6;
  double shortest = std::numeric_limits<double>::infinity(), total = 0;
  body();
  for (int run = 0; run < kMaxRuns && (run < kMinRuns || total < kEnoughNs); ++run) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const double ns =
        std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
    shortest = std::min(shortest, ns);
    total += ns;
  }
  return shortest;
}

// A cache of `rows` random rows, and queries at the last half of them.
class Sample {
 public:
  Sample(Backend& backend, const AttentionShape& shape, std::int64_t rows)
      : backend_(backend), shape_(shape), rows_(rows), queries_(rows / 2) {
    kv_.kv_heads = shape.kv_heads;
    kv_.head_dim = shape.head_dim;
    backend.reserve(kv_, rows);
    const std::int64_t q_cols = shape.heads * shape.head_dim;
    const std::int64_t qkv_cols = q_cols + 2 * shape.kv_heads * shape.head_dim;
    const MatrixView qkv = allocate(qkv_buffer_, rows, qkv_cols), q = allocate(q_buffer_, rows, q_cols);
    out_ = allocate(out_buffer_, queries_, q_cols);
    fill(qkv);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(rows));
    std::iota(positions.begin(), positions.end(), 0);
    const RopeTable no_rotation;
    backend.rope_append({.qkv = qkv, .positions = positions, .rope = &no_rotation, .q = q, .kv = &kv_});
    q_ = q.slice(rows - queries_, queries_);
    query_rows_.resize(static_cast<std::size_t>(queries_));
    std::iota(query_rows_.begin(), query_rows_.end(), rows - queries_);
  }

  double pairs() const {
    const auto n = static_cast<double>(queries_);
    return n * (static_cast<double>(rows_) - (n - 1) / 2);
  }

  double attention_ns(const BlockPlan* plan) const {
    return shortest_ns([&] {
      backend_.attention(
          {.q = q_, .query_rows = query_rows_, .kv = &kv_, .scale = scale(), .out = out_, .plan = plan});
      backend_.finish();
    });
  }

  std::unique_ptr<BlockPlanner> make_planner(const BlockRule& rule) const {
    const std::int64_t window = std::min<std::int64_t>(64, queries_);
    auto planner = backend_.make_planner({.rule = rule,
                                          .thresholds = std::vector<float>(shape_.heads, 0.5f),
                                          .kv = &kv_,
                                          .scale = scale(),
                                          .last_q = q_.slice(queries_ - window, window)});
    backend_.finish();
    return planner;
  }
  void plan(BlockPlanner& planner, BlockPlan& plan) const {
    planner.plan(q_, query_rows_, plan);
    backend_.finish();
  }

  // Every third block and the one of the diagonal: what a plan looks like that is worth its while. The means
  // are those of `planned`.
  BlockPlan third_of(const BlockPlan& planned, const BlockRule& rule) const {
    BlockPlan plan = full_plan(rule.q_block, rule.k_block, planned.heads, query_rows_);
    plan.means = planned.means;
    std::vector<std::int32_t> blocks;
    std::vector<std::int64_t> offsets{0};
    for (std::int64_t i = 0; i + 1 < static_cast<std::int64_t>(plan.offsets.size()); ++i) {
      for (std::int64_t j = plan.offsets[i]; j < plan.offsets[i + 1]; ++j) {
        if (plan.blocks[j] % 3 == 0 || j + 1 == plan.offsets[i + 1]) blocks.push_back(plan.blocks[j]);
      }
      offsets.push_back(static_cast<std::int64_t>(blocks.size()));
    }
    plan.blocks = std::move(blocks);
    plan.offsets = std::move(offsets);
    return plan;
  }
  double pairs_of(const BlockPlan& plan) const { return plan_work(plan, query_rows_).computed; }
  double rows() const { return static_cast<double>(rows_); }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }

  MatrixView allocate(Buffer& buffer, std::int64_t rows, std::int64_t cols) const {
    buffer = backend_.allocate(rows * dtype_bytes(backend_.compute_dtype(), cols));
    return {buffer.as<>(), backend_.compute_dtype(), rows, cols};
  }

  void fill(const MatrixView& matrix) const {
    std::mt19937 random(1);
    std::vector<float> row(static_cast<std::size_t>(matrix.cols));
    const std::int64_t row_bytes = dtype_bytes(DType::kF32, matrix.cols);
    const Buffer floats = backend_.allocate(row_bytes);
    for (std::int64_t i = 0; i < matrix.rows; ++i) {
      for (float& value : row) value = static_cast<float>(random() >> 8) * 0x1p-23f - 1.0f;
      backend_.upload(row.data(), floats.as<>(), row_bytes);
      backend_.convert({floats.as<>(), DType::kF32, 1, matrix.cols}, matrix.slice(i, 1));
    }
  }

  Backend& backend_;
  AttentionShape shape_;
  std::int64_t rows_, queries_;
  LayerKv kv_;
  Buffer qkv_buffer_, q_buffer_, out_buffer_;
  MatrixView q_, out_;
  std::vector<std::int64_t> query_rows_;
};

// Rows that make one dense run take about 2 ms: long enough to time, short enough to wait for.
std::int64_t sample_rows(Backend& backend, const AttentionShape& shape) {
  constexpr std::int64_t kFewRows = 128;
  const std::int64_t many_rows = backend.shares_host_memory() ? 1024 : 16384;  // a GPU wants more to do
  constexpr double kWantedNs = 2e6;
  const Sample probe(backend, shape, kFewRows);
  const double ns_per_pair = probe.attention_ns(nullptr) / probe.pairs();
  std::int64_t rows = kFewRows;
  const auto pairs = [](std::int64_t n) { return 0.375 * static_cast<double>(n * n); };
  while (rows < many_rows && pairs(2 * rows) * ns_per_pair <= kWantedNs) rows *= 2;
  return rows;
}

std::string processor() {
  const std::string name = cpu_info("model name");
  return name.empty() ? "unknown processor" : name;
}

json to_json(const AttentionCosts& costs) {
  return {{"dense_ns", costs.dense_ns},
          {"sparse_ns", costs.sparse_ns},
          {"setup_ns", costs.setup_ns},
          {"plan_ns", costs.plan_ns}};
}

// Null unless it is four positive numbers.
std::optional<AttentionCosts> costs_from_json(const json& entry) {
  if (!entry.is_object()) return std::nullopt;
  AttentionCosts costs;
  for (const auto& [key, value] : {std::pair{"dense_ns", &costs.dense_ns},
                                   {"sparse_ns", &costs.sparse_ns},
                                   {"setup_ns", &costs.setup_ns},
                                   {"plan_ns", &costs.plan_ns}}) {
    const auto found = entry.find(key);
    if (found == entry.end() || !found->is_number() || !(found->get<double>() > 0)) return std::nullopt;
    *value = found->get<double>();
  }
  return costs;
}

// The file's entries by key; an empty object when there is nothing to be read.
json read_entries(const std::string& path) {
  std::ifstream file(path);
  const json all = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!all.is_object() || all.value("version", json()) != kFileVersion) return json::object();
  json entries = all.value("costs", json());
  return entries.is_object() ? entries : json::object();
}

// How often other work has taken the processor from this process.
long preemptions() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

AttentionCosts measure_once(const Sample& sample, const BlockRule& rule) {
  AttentionCosts costs;
  costs.dense_ns = sample.attention_ns(nullptr) / sample.pairs();
  std::unique_ptr<BlockPlanner> planner;
  costs.setup_ns = shortest_ns([&] { planner = sample.make_planner(rule); }) / sample.rows();
  BlockPlan planned;
  costs.plan_ns = shortest_ns([&] { sample.plan(*planner, planned); }) / sample.pairs();
  const BlockPlan plan = sample.third_of(planned, rule);
  costs.sparse_ns = sample.attention_ns(&plan) / sample.pairs_of(plan);
  return costs;
}

}  // namespace

AttentionCosts measure_attention_costs(Backend& backend, const AttentionShape& shape, const BlockRule& rule) {
  const Sample sample(backend, shape, sample_rows(backend, shape));
  const long before = preemptions();
  AttentionCosts costs = measure_once(sample, rule);
  // On a busy machine every run of one round may be slow, and what is found is kept: rounds go on until one
  // finds nothing much faster.
  constexpr int kMaxRounds = 6;
  constexpr double kMuchFaster = 0.85;
  for (int round = 1; round < kMaxRounds; ++round) {
    const AttentionCosts again = measure_once(sample, rule);
    const bool settled = again.dense_ns > kMuchFaster * costs.dense_ns &&
                         again.sparse_ns > kMuchFaster * costs.sparse_ns &&
                         again.plan_ns > kMuchFaster * costs.plan_ns;
    costs = {std::min(costs.dense_ns, again.dense_ns), std::min(costs.sparse_ns, again.sparse_ns),
             std::min(costs.setup_ns, again.setup_ns), std::min(costs.plan_ns, again.plan_ns)};
    if (settled) break;
  }
  constexpr long kFew = 8;  // an idle machine takes the processor away a few times at most
  costs.settled = preemptions() - before <= kFew;
  return costs;
}

std::string attention_costs_key(const Backend& backend, const AttentionShape& shape, const BlockRule& rule) {
  return fmt::format(
      "winnow {} | {} | {} | heads {} kv {} dim {} | estimator {} criterion {} blocks {}x{} stride {} pool "
      "{} "
      "outliers {} variance {} query_stride {} union {} means {}",
      WINNOW_VERSION, processor(), backend.description(), shape.heads, shape.kv_heads, shape.head_dim,
      static_cast<int>(rule.estimator), static_cast<int>(rule.criterion), rule.q_block, rule.k_block,
      rule.stride, rule.pool, rule.outliers, rule.variance, rule.query_stride, rule.group_union,
      rule.mean_correction);
}

std::string attention_costs_file() {
  const auto folder = [](const char* name) -> std::filesystem::path {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  std::filesystem::path cache = folder("XDG_CACHE_HOME");
  if (cache.empty() && !folder("HOME").empty()) cache = folder("HOME") / ".cache";
  return cache.empty() ? "" : (cache / "winnow" / "attention_costs.json").string();
}

const AttentionCosts& AttentionCostsCache::get(const std::string& key,
                                               const std::function<AttentionCosts()>& measure) {
  if (const auto found = known_.find(key); found != known_.end()) return found->second;
  const json entries = path_.empty() ? json::object() : read_entries(path_);
  if (const auto kept = costs_from_json(entries.value(key, json()))) {
    return known_.emplace(key, *kept).first->second;
  }
  const AttentionCosts costs = measure();
  spdlog::debug(
      "attention costs: dense {:.4g} ns a pair, sparse {:.4g}, setup {:.4g} a row, plan {:.4g} a pair",
      costs.dense_ns, costs.sparse_ns, costs.setup_ns, costs.plan_ns);
  if (!path_.empty() && costs.settled) store(key, costs);
  return known_.emplace(key, costs).first->second;
}

// Read again: another process may have added its own since.
void AttentionCostsCache::store(const std::string& key, const AttentionCosts& costs) const {
  json entries = read_entries(path_);
  entries[key] = to_json(costs);
  try {
    std::error_code ignored;  // the write says what is wrong
    std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
    write_file_atomically(path_, json{{"version", kFileVersion}, {"costs", entries}}.dump(1) + "\n");
  } catch (const Error& error) {
    spdlog::debug("attention costs are measured again by every process: {}", error.what());
  }
}

}  // namespace winnow
