// Plans of every estimator made on the GPU against the reference planner's; exit 1 if one differs by more
// than ties and rounding explain.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "backends/backend.h"
#include "backends/cuda/block_planning.h"
#include "device_array.h"
#include "query_rows.h"

namespace winnow::cuda {
namespace {

// Plans of a rule by the reference backend and on the GPU, for one cache of random keys with a few that stick
// out.
struct PlanCase {
  const char* name;
  BlockRule rule;
  float threshold;
  DType dtype = DType::kBF16;
  std::int64_t dim = 64, queries = 700, kv_rows = 900;
  bool gaps = false;
  std::int64_t dense_from_row = -1;
};

template <class T>
std::vector<T> random_values(std::int64_t count, float spread, std::mt19937_64& random) {
  std::normal_distribution<float> normal(0, 1);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = normal(random) * (random() % 4096 < 64 ? 2 * spread : spread);
    if constexpr (sizeof(T) == 2) {
      values[i] = to_bf16(x);
    } else {
      values[i] = x;
    }
  }
  return values;
}

template <class T>
int check_plan(const PlanCase& c, std::uint64_t seed) {
  constexpr std::int64_t kHeads = 6, kKvHeads = 2;
  std::mt19937_64 random(seed);
  const std::vector<T> q = random_values<T>(c.queries * kHeads * c.dim, 1.5f, random);
  const std::vector<T> k = random_values<T>(c.kv_rows * kKvHeads * c.dim, 1.0f, random), v = k;
  const std::vector<std::int32_t> rows = query_rows(c.kv_rows, c.queries, c.gaps, random);
  const std::int64_t last = std::min<std::int64_t>(40, c.queries);

  LayerKv kv;
  kv.kv_heads = kKvHeads;
  kv.head_dim = c.dim;
  kv.rows = kv.capacity = c.kv_rows;
  kv.k = Buffer::host(static_cast<std::int64_t>(k.size() * sizeof(T)));
  kv.v = Buffer::host(static_cast<std::int64_t>(k.size() * sizeof(T)));
  std::memcpy(kv.k.as<>(), k.data(), k.size() * sizeof(T));
  std::memcpy(kv.v.as<>(), v.data(), v.size() * sizeof(T));
  BlockPlannerParams params;
  params.rule = c.rule;
  params.thresholds.assign(kHeads, c.threshold);
  params.kv = &kv;
  params.scale = 1 / std::sqrt(static_cast<float>(c.dim));
  params.dense_from_row = c.dense_from_row;
  const MatrixView queries{const_cast<T*>(q.data()), c.dtype, c.queries, kHeads * c.dim};
  params.last_q = queries.slice(c.queries - last, last);
  const auto backend = make_reference_backend(sizeof(T) == 2 ? Precision::kBF16 : Precision::kF32);
  BlockPlan expected;
  backend->make_planner(params)->plan(queries, std::vector<std::int64_t>(rows.begin(), rows.end()), expected);

  const DeviceArray<T> device_q(q), device_k(k);
  const DeviceArray<std::int32_t> device_rows(rows);
  const DeviceArray<float> thresholds(params.thresholds);
  PlanningParams p{.rule = c.rule,
                   .dtype = c.dtype,
                   .heads = kHeads,
                   .kv_heads = kKvHeads,
                   .head_dim = c.dim,
                   .kv_rows = c.kv_rows,
                   .k = device_k.data,
                   .v = device_k.data};
  p.kv_row_stride = kKvHeads * c.dim;  // [rows, kv_heads, dim]
  p.kv_head_stride = c.dim;
  p.scale = params.scale;
  p.dense_from_row = c.dense_from_row;
  p.thresholds = thresholds.data;
  p.last_q = device_q.data + (c.queries - last) * kHeads * c.dim;
  p.last_q_row_stride = kHeads * c.dim;
  p.last_queries = last;
  PlanningQueries pq{.q = device_q.data, .q_row_stride = kHeads * c.dim, .queries = c.queries};
  pq.query_rows = c.gaps ? device_rows.data : nullptr;
  pq.first_row = c.kv_rows - c.queries;
  DeviceArray<std::uint8_t> summary(summary_bytes(p) + 256), workspace(planning_workspace(p, c.queries));
  const std::int64_t words = plan_words(c.kv_rows, c.rule.k_block);
  DeviceArray<std::uint32_t> listed(expected.heads * expected.query_blocks * words);
  check_cuda(cudaMemset(listed.data, 0xff, listed.count * 4), "poison");
  check_cuda(cudaMemset(workspace.data, 0xff, workspace.count), "poison");
  summarise_keys(p, summary.data, nullptr);
  list_blocks(p, summary.data, pq, listed.data, workspace.data, nullptr);
  DeviceArray<unsigned long long> pairs(std::vector<unsigned long long>{0});
  count_pairs(p, pq, expected.heads, listed.data, pairs.data, nullptr);
  check_cuda(cudaDeviceSynchronize(), "planning");

  const std::vector<std::uint32_t> bits = listed.host();
  std::int64_t missing = 0, extra = 0, outside = 0;
  for (std::int64_t row = 0; row < expected.heads * expected.query_blocks; ++row) {
    const auto blocks = expected.row(0, row);
    for (std::int64_t j = 0; j < words * 32; ++j) {
      const bool has = (bits[row * words + j / 32] >> (j % 32) & 1) != 0;
      const bool wanted = std::find(blocks.begin(), blocks.end(), j) != blocks.end();
      missing += wanted && !has;
      extra += has && !wanted;
      outside += has && j * c.rule.k_block >= c.kv_rows;
    }
  }
  const std::vector<std::int64_t> wide(rows.begin(), rows.end());
  const double share = static_cast<double>(missing + extra) / static_cast<double>(expected.blocks.size());
  const double counted = static_cast<double>(pairs.host()[0]) / static_cast<double>(expected.heads);
  const double density = plan_work(expected, wide).density();
  const bool same = missing + extra > 0 || std::abs(counted - plan_work(expected, wide).computed) < 0.5;
  const bool good = share < (sizeof(T) == 2 ? 0.01 : 0.001) && outside == 0 && same;
  std::printf("%-4s %s %-34s %3ldx%-3ld density %.3f: %zu blocks, %ld missing, %ld extra\n",
              good ? "ok" : "BAD", sizeof(T) == 2 ? "bf16" : "f32 ", c.name, c.rule.q_block, c.rule.k_block,
              density, expected.blocks.size(), missing, extra);
  std::fflush(stdout);
  return good ? 0 : 1;
}

int check_plans() {
  using E = BlockEstimator;
  using C = BlockCriterion;
  const auto rule = [](E estimator, C criterion, std::int64_t q_block, std::int64_t k_block) {
    BlockRule r{.estimator = estimator, .criterion = criterion, .q_block = q_block, .k_block = k_block};
    r.local_tokens = 20;
    return r;
  };
  std::vector<PlanCase> cases;
  for (const std::int64_t block : {16, 64, 128}) {
    cases.push_back({"local", rule(E::kNone, C::kMass, 64, block), 0.5f});
    BlockRule pooled = rule(E::kPooled, C::kMass, 128, block);
    cases.push_back({"pooled", pooled, 0.7f});
    pooled.outliers = 1;
    pooled.query_stride = 4;
    cases.push_back({"pooled, outlier, every 4th query", pooled, 0.7f});
    cases.push_back({"pooled, gaps", pooled, 0.6f, DType::kBF16, 128, 500, 1100, true});
    pooled.outliers = 2;
    cases.push_back({"pooled, 2 outliers, dense end", pooled, 0.5f, DType::kBF16, 96, 700, 900, false, 800});
    pooled.outliers = 0;
    pooled.variance = true;
    cases.push_back({"pooled, variance", pooled, 0.5f});
    BlockRule maximum = rule(E::kPooled, C::kMaximum, 64, block);
    maximum.outliers = 1;
    cases.push_back({"pooled, maximum", maximum, 0.05f, DType::kBF16, 256});
    cases.push_back({"exact", rule(E::kExact, C::kMass, 64, block), 0.6f});
    cases.push_back({"exact, maximum", rule(E::kExact, C::kMaximum, 64, block), 0.03f});
    cases.push_back({"antidiagonal", rule(E::kAntidiagonal, C::kMass, 128, block), 0.6f});
    cases.push_back({"antidiagonal, maximum, gaps", rule(E::kAntidiagonal, C::kMaximum, 64, block), 0.1f,
                     DType::kBF16, 64, 333, 900, true});
    cases.push_back({"vertical slash", rule(E::kVerticalSlash, C::kMass, 64, block), 0.2f});
    cases.push_back({"vertical slash, maximum, gaps", rule(E::kVerticalSlash, C::kMaximum, 64, block), 0.05f,
                     DType::kBF16, 64, 333, 900, true});
    BlockRule united = rule(E::kPooled, C::kMass, 64, block);
    united.group_union = true;
    cases.push_back({"pooled, union", united, 0.4f});
    cases.push_back({"pooled, everything", united, 1.0f});
  }
  int bad = 0;
  std::uint64_t seed = std::random_device()() & 0xffff;
  for (PlanCase& c : cases) {
    if (c.rule.mean_correction) continue;
    bad += check_plan<BF16>(c, ++seed);
    c.dtype = DType::kF32;
    bad += check_plan<float>(c, ++seed);
  }
  std::printf("%d wrong\n", bad);
  return bad == 0 ? 0 : 1;
}

}  // namespace
}  // namespace winnow::cuda

int main() { return winnow::cuda::check_plans(); }
