// Block-sparse attention on the GPU: is it right, and how fast is it?
//
//   sparse_attention_bench check [N]        every (N-th) shape against double precision; exit 1 if wrong
//   sparse_attention_bench profile          a few launches of each kernel, for a profiler
//   sparse_attention_bench time [OUT.json]  the attention of Qwen2-7B (28 heads, 4 kv heads, 128): random
//                                           plans, then plans chosen on the GPU, with the time that takes
//
// Inputs are random and new for every case, outputs are poisoned before each run. Times are medians of event
// pairs around one call, the ordering of tiles included.
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/cuda/block_planning.h"
#include "backends/cuda/sparse_attention.h"
#include "device_array.h"
#include "query_rows.h"

namespace winnow::cuda {
namespace {

using Bf16 = __nv_bfloat16;

__global__ void fill_random(Bf16* to, std::int64_t count, std::uint64_t seed, float scale) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  std::uint64_t x = (seed << 40) + static_cast<std::uint64_t>(i);  // splitmix64
  float sum = 0;
  for (int k = 0; k < 2; ++k) {
    x += 0x9e3779b97f4a7c15ull;
    std::uint64_t z = x;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    sum += static_cast<float>(z & 0xffffffffu) * 0x1p-32f + static_cast<float>(z >> 32) * 0x1p-32f;
  }
  to[i] =
      __float2bfloat16((sum - 2) * 1.7f * scale);  // four uniforms: nearly normal, deviation about `scale`
}

// A block of threads for each (query, head); at most 4,096 keys.
__global__ void reference(BlockAttentionParams p, double* out) {
  extern __shared__ double weights[];
  __shared__ double total;
  const std::int64_t query = blockIdx.x, head = blockIdx.y, dim = p.head_dim,
                     kv_head = head / (p.heads / p.kv_heads);
  const DevicePlan& plan = p.plan;
  const auto row_of = [&](std::int64_t i) {
    return p.query_rows != nullptr ? p.query_rows[i] : p.first_row + i;
  };
  const std::int64_t q_block = query / plan.q_block, plan_head = head / (p.heads / plan.heads);
  const std::int64_t row = row_of(query), first = row_of(q_block * plan.q_block);
  const std::uint32_t* listed = plan.listed + (plan_head * plan.query_blocks + q_block) * plan.words;
  const Bf16* q = static_cast<const Bf16*>(p.q) + query * p.q_row_stride + head * dim;
  const std::int64_t means = plan.mean_k == nullptr ? 0 : plan.means;
  const auto key = [&](std::int64_t j, bool value) {
    if (j < p.kv_rows) {
      return static_cast<const Bf16*>(value ? p.v : p.k) + kv_head * p.kv_head_stride + j * p.kv_row_stride;
    }
    return static_cast<const Bf16*>(value ? plan.mean_v : plan.mean_k) + kv_head * plan.mean_head_stride +
           (j - p.kv_rows) * dim;
  };
  for (std::int64_t j = threadIdx.x; j < p.kv_rows + means; j += blockDim.x) {
    const bool mean = j >= p.kv_rows;
    const std::int64_t block = mean ? j - p.kv_rows : j / plan.k_block;
    const bool has = (listed[block / 32] >> (block % 32) & 1) != 0;
    const bool counts = mean ? !has && (block + 1) * plan.k_block <= first : has && j <= row;
    double dot = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
      dot += static_cast<double>(__bfloat162float(q[d])) *
             static_cast<double>(__bfloat162float(key(j, false)[d]));
    }
    dot = dot * static_cast<double>(p.scale) + (mean ? log(static_cast<double>(plan.k_block)) : 0.0);
    weights[j] = counts ? exp(dot) : 0.0;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    total = 0;
    for (std::int64_t j = 0; j < p.kv_rows + means; ++j) total += weights[j];
  }
  __syncthreads();
  for (std::int64_t d = threadIdx.x; d < dim; d += blockDim.x) {
    double sum = 0;
    for (std::int64_t j = 0; j < p.kv_rows + means; ++j) {
      if (weights[j] > 0) sum += weights[j] * static_cast<double>(__bfloat162float(key(j, true)[d]));
    }
    out[(query * p.heads + head) * dim + d] = total > 0 ? sum / total : 0;
  }
}

struct Case {
  std::int64_t heads, kv_heads, dim, queries, kv_rows, q_block, k_block;
  double density;        // share of causal blocks listed; the first and the diagonal always are, below 1
  bool means = false;    // mean correction
  bool gaps = false;     // query rows with holes, as behind a pruning stage
  bool grouped = false;  // one plan for a kv head
  bool empty_row = false;
};

struct Problem {
  explicit Problem(const Case& c, std::uint64_t seed);
  Case shape;
  std::vector<std::int32_t> rows;
  DeviceArray<Bf16> q, k, v, out, mean_k, mean_v;
  DeviceArray<std::int32_t> device_rows;
  std::vector<std::uint32_t> listed;
  DeviceArray<std::uint32_t> device_listed;
  DeviceArray<std::uint8_t> workspace;
  double pairs = 0, causal_pairs = 0;  // (query, key), mean over heads
  BlockAttentionParams params() const;
};

std::vector<std::uint32_t> make_plan(const Case& c, const std::vector<std::int32_t>& rows,
                                     std::mt19937_64& random, double& pairs, double& causal) {
  const std::int64_t heads = c.grouped ? c.kv_heads : c.heads, words = plan_words(c.kv_rows, c.k_block);
  const std::int64_t query_blocks = (c.queries + c.q_block - 1) / c.q_block;
  std::vector<std::uint32_t> listed(static_cast<std::size_t>(heads * query_blocks * words));
  const auto limit = static_cast<std::uint32_t>(std::min(c.density, 1.0) * 4294967295.0);
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < query_blocks; ++i) {
      const std::int64_t first = i * c.q_block, last = std::min(c.queries, first + c.q_block) - 1;
      const std::int64_t blocks = rows[last] / c.k_block + 1;
      std::uint32_t* row = &listed[(head * query_blocks + i) * words];
      for (std::int64_t j = 0; j < blocks; ++j) {
        const bool forced = j == 0 || j >= rows[first] / c.k_block;
        if (!forced && static_cast<std::uint32_t>(random()) > limit) continue;
        if (c.empty_row && i == 1) continue;
        row[j / 32] |= 1u << (j % 32);
        const std::int64_t begin = j * c.k_block;
        if (begin + c.k_block <= rows[first] + 1) {
          pairs += static_cast<double>((last - first + 1) * c.k_block);
        } else {
          for (std::int64_t q = first; q <= last; ++q) {
            pairs += static_cast<double>(std::clamp<std::int64_t>(rows[q] + 1 - begin, 0, c.k_block));
          }
        }
      }
    }
  }
  pairs /= static_cast<double>(heads);
  for (const std::int32_t row : rows) causal += row + 1;
  return listed;
}

Problem::Problem(const Case& c, std::uint64_t seed)
    : shape(c),
      q(c.queries * c.heads * c.dim),
      k(c.kv_rows * c.kv_heads * c.dim),
      v(k.count),
      out(q.count),
      mean_k(std::max<std::int64_t>(1, c.kv_rows / c.k_block) * c.kv_heads * c.dim),
      mean_v(mean_k.count),
      device_rows(c.queries),
      device_listed((c.grouped ? c.kv_heads : c.heads) * ((c.queries + c.q_block - 1) / c.q_block) *
                    plan_words(c.kv_rows, c.k_block)),
      workspace(block_attention_workspace(c.heads, c.queries)) {
  std::mt19937_64 random(seed);
  rows = query_rows(c.kv_rows, c.queries, c.gaps, random);
  listed = make_plan(c, rows, random, pairs, causal_pairs);
  check_cuda(cudaMemcpy(device_rows.data, rows.data(), rows.size() * 4, cudaMemcpyHostToDevice), "rows");
  check_cuda(cudaMemcpy(device_listed.data, listed.data(), listed.size() * 4, cudaMemcpyHostToDevice),
             "plan");
  const auto fill = [&](DeviceArray<Bf16>& array, std::uint64_t which, float scale) {
    fill_random<<<static_cast<unsigned>((array.count + 255) / 256), 256>>>(array.data, array.count,
                                                                           seed * 8 + which, scale);
  };
  fill(q, 0, 1.5f);
  fill(k, 1, 1.0f);
  fill(v, 2, 1.0f);
  fill(mean_k, 3, 0.3f);
  fill(mean_v, 4, 0.3f);
  check_cuda(cudaDeviceSynchronize(), "inputs");
}

BlockAttentionParams Problem::params() const {
  const Case& c = shape;
  BlockAttentionParams p;
  p.heads = c.heads;
  p.kv_heads = c.kv_heads;
  p.head_dim = c.dim;
  p.queries = c.queries;
  p.kv_rows = c.kv_rows;
  p.q = q.data;
  p.out = out.data;
  p.q_row_stride = p.out_row_stride = c.heads * c.dim;
  p.k = k.data;
  p.v = v.data;
  p.kv_row_stride = c.dim;  // [kv_heads, rows, dim]
  p.kv_head_stride = c.kv_rows * c.dim;
  p.query_rows = c.gaps ? device_rows.data : nullptr;
  p.first_row = c.kv_rows - c.queries;
  p.scale = 1 / std::sqrt(static_cast<float>(c.dim));
  p.plan.q_block = c.q_block;
  p.plan.k_block = c.k_block;
  p.plan.heads = c.grouped ? c.kv_heads : c.heads;
  p.plan.query_blocks = (c.queries + c.q_block - 1) / c.q_block;
  p.plan.words = plan_words(c.kv_rows, c.k_block);
  p.plan.listed = device_listed.data;
  if (c.means) {
    p.plan.mean_k = mean_k.data;
    p.plan.mean_v = mean_v.data;
    p.plan.means = c.kv_rows / c.k_block;
    p.plan.mean_head_stride = p.plan.means * c.dim;
  }
  p.workspace = workspace.data;
  return p;
}

// |out - ref| / |ref|; infinite if anything was not written or is no number.
double error_of(const std::vector<Bf16>& out, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double x = static_cast<double>(__bfloat162float(out[i]));
    if (!std::isfinite(x)) return INFINITY;
    difference += (x - expected[i]) * (x - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

double run_error(const Problem& problem, bool plain, const std::vector<double>& expected) {
  const BlockAttentionParams p = problem.params();
  check_cuda(cudaMemset(problem.out.data, 0xff, problem.out.count * sizeof(Bf16)), "poison");
  plain ? attend_blocks_plain(p, nullptr) : attend_blocks(p, nullptr);
  check_cuda(cudaDeviceSynchronize(), plain ? "plain kernel" : "tensor-core kernel");
  return error_of(problem.out.host(), expected);
}

int check_case(const Case& c, std::uint64_t seed, int every) {
  if (seed % every != 0) return 0;
  const Problem problem(c, seed);
  const BlockAttentionParams p = problem.params();
  DeviceArray<double> expected(problem.q.count);
  const auto bytes = static_cast<unsigned>((p.kv_rows + p.plan.means + 16) * 8);  // 16: loads of pairs
  check_cuda(cudaFuncSetAttribute(reference, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10),
             "reference");
  reference<<<dim3(static_cast<unsigned>(p.queries), static_cast<unsigned>(p.heads)), 128, bytes>>>(
      p, expected.data);
  check_cuda(cudaDeviceSynchronize(), "reference");
  const std::vector<double> values = expected.host();
  const double plain = run_error(problem, true, values), fast = run_error(problem, false, values);
  const double again = run_error(problem, false, values);
  const bool good = plain < 1e-2 && fast < 1e-2 && fast == again;
  std::printf(
      "%-4s dim %3ld heads %2ld/%ld queries %4ld of %4ld blocks %3ldx%-3ld density %.2f%s%s%s%s: plain "
      "%.2e%s %.2e\n",
      good ? "ok" : "BAD", c.dim, c.heads, c.kv_heads, c.queries, c.kv_rows, c.q_block, c.k_block, c.density,
      c.means ? " means" : "", c.gaps ? " gaps" : "", c.grouped ? " grouped" : "",
      c.empty_row ? " empty" : "", plain, supports_tensor_cores(p) ? ", tensor cores" : ", not taken", fast);
  std::fflush(stdout);
  return good ? 0 : 1;
}

int check_all(int every) {
  int bad = 0;
  std::uint64_t seed = std::random_device()();
  seed &= 0xffff;
  for (const std::int64_t dim : {64, 96, 128, 256}) {
    for (const std::int64_t q_block : {64, 128}) {
      for (const std::int64_t k_block : {16, 32, 64, 128}) {
        bad += check_case({6, 2, dim, 777, 777, q_block, k_block, 0.3}, ++seed, every);
        bad += check_case({4, 4, dim, 333, 1001, q_block, k_block, 0.4, true, true}, ++seed, every);
      }
    }
  }
  for (const std::int64_t dim : {64, 96, 128, 256}) {
    for (const std::int64_t q_block : {64, 128, 256}) {
      bad += check_case({7, 1, dim, 1031, 1500, q_block, 128, 1.0}, ++seed, every);
      bad += check_case({14, 2, dim, 640, 2048, q_block, 64, 0.2, false, false, true}, ++seed, every);
      bad += check_case({4, 1, dim, 1, 700, q_block, 16, 0.5, true, false, false}, ++seed, every);
      bad += check_case({4, 2, dim, 600, 1100, q_block, 16, 0.5, true, true}, ++seed, every);
      bad += check_case({4, 1, dim, 500, 900, q_block, 32, 0.5, false, true, false, true}, ++seed, every);
    }
  }
  bad += check_case({2, 1, 80, 300, 500, 32, 8, 0.5, true, true}, ++seed, every);  // plain kernel only
  std::printf("%d wrong\n", bad);
  return bad == 0 ? 0 : 1;
}

template <class Run>
double median_ms(const Run& run, int repeats) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < repeats + 2; ++i) {
    cudaEventRecord(begin);
    run();
    cudaEventRecord(end);
    check_cuda(cudaEventSynchronize(end), "timing");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 2) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return static_cast<double>(times[times.size() / 2]);
}

// Plans by pooled keys, then attention: thresholds are looked for that give the density.
struct Planned {
  double threshold, density, summary_ms, plan_ms, attention_ms, total_ms;
};
Planned time_planned(const Case& c, const BlockRule& rule, double density, std::uint64_t seed,
                     int repeats = 10) {
  Problem problem(c, seed);
  const std::vector<float> half(static_cast<std::size_t>(c.heads), 0.5f);
  DeviceArray<float> thresholds(half);
  PlanningParams p{.rule = rule,
                   .heads = c.heads,
                   .kv_heads = c.kv_heads,
                   .head_dim = c.dim,
                   .kv_rows = c.kv_rows,
                   .k = problem.k.data,
                   .v = problem.v.data};
  p.kv_row_stride = c.dim;
  p.kv_head_stride = c.kv_rows * c.dim;
  p.scale = 1 / std::sqrt(static_cast<float>(c.dim));
  p.thresholds = thresholds.data;
  const PlanningQueries q{.q = problem.q.data,
                          .q_row_stride = c.heads * c.dim,
                          .queries = c.queries,
                          .first_row = c.kv_rows - c.queries};
  DeviceArray<std::uint8_t> summary(summary_bytes(p) + 256), workspace(planning_workspace(p, c.queries));
  DeviceArray<unsigned long long> pairs(std::vector<unsigned long long>{0});
  const auto plan = [&] {
    list_blocks(p, summary.data, q, problem.device_listed.data, workspace.data, nullptr);
  };
  summarise_keys(p, summary.data, nullptr);
  Planned result{};
  double low = 0, high = 1;
  for (int i = 0; i < 9; ++i) {
    result.threshold = (low + high) / 2;
    const std::vector<float> all(half.size(), static_cast<float>(result.threshold));
    check_cuda(cudaMemcpy(thresholds.data, all.data(), all.size() * 4, cudaMemcpyHostToDevice), "thresholds");
    plan();
    check_cuda(cudaMemset(pairs.data, 0, 8), "pairs");
    count_pairs(p, q, c.heads, problem.device_listed.data, pairs.data, nullptr);
    result.density =
        static_cast<double>(pairs.host()[0]) / static_cast<double>(c.heads) / problem.causal_pairs;
    (result.density < density ? low : high) = result.threshold;
  }
  const auto summarise = [&] { summarise_keys(p, summary.data, nullptr); };
  const auto attend = [&] { attend_blocks(problem.params(), nullptr); };
  result.summary_ms = median_ms(summarise, repeats);
  result.plan_ms = median_ms(plan, repeats);
  result.attention_ms = median_ms(attend, repeats);
  result.total_ms = median_ms(
      [&] {
        summarise();
        plan();
        attend();
      },
      repeats);
  return result;
}

// A few launches of each kernel, for a profiler.
int profile() {
  const BlockRule rule{.q_block = 128, .k_block = 128, .pool = 16, .outliers = 1, .query_stride = 4};
  time_planned({28, 4, 128, 32768, 32768, 128, 128, 0.1}, rule, 0.1, 1, 1);
  return 0;
}

int time_all(const char* path) {
  std::string json;
  std::uint64_t seed = std::random_device()() & 0xffff;
  std::printf("%8s %4s %9s %8s %8s %9s %9s\n", "tokens", "dim", "blocks", "density", "ms", "TFLOP/s",
              "ms/density");
  const auto run = [&](const Case& c) {
    const Problem problem(c, ++seed);
    const double ms =
        median_ms([&] { attend_blocks(problem.params(), nullptr); }, c.kv_rows > 40000 ? 3 : 15);
    const double density = problem.pairs / problem.causal_pairs;
    const double flops = 4.0 * static_cast<double>(c.dim * c.heads) * problem.pairs / (ms * 1e9);
    std::printf("%8ld %4ld %4ldx%-4ld %8.3f %8.3f %9.0f %9.2f%s\n", c.kv_rows, c.dim, c.q_block, c.k_block,
                density, ms, flops, ms / density, c.means ? " means" : "");
    std::fflush(stdout);
    char line[256];
    std::snprintf(line, sizeof line,
                  "{\"tokens\": %ld, \"heads\": %ld, \"kv_heads\": %ld, \"head_dim\": %ld, \"q_block\": %ld, "
                  "\"k_block\": %ld, "
                  "\"means\": %s, \"density\": %.4f, \"ms\": %.4f, \"tflops\": %.1f}",
                  c.kv_rows, c.heads, c.kv_heads, c.dim, c.q_block, c.k_block, c.means ? "true" : "false",
                  density, ms, flops);
    json += (json.empty() ? "" : ",\n  ") + std::string(line);
  };
  for (const std::int64_t tokens : {8192, 32768}) {
    for (const double density : {1.0, 0.25, 0.10}) run({28, 4, 128, tokens, tokens, 128, 128, density});
  }
  for (const std::int64_t k_block : {64, 16}) {
    for (const double density : {1.0, 0.25, 0.10}) run({28, 4, 128, 32768, 32768, 128, k_block, density});
  }
  for (const double density : {1.0, 0.25, 0.10}) run({28, 4, 128, 32768, 32768, 64, 64, density});
  run({28, 4, 128, 32768, 32768, 64, 16, 0.10});
  run({28, 4, 128, 32768, 32768, 128, 128, 0.10, true});
  for (const std::int64_t dim : {64, 96, 256}) {
    for (const double density : {1.0, 0.10}) run({28, 4, dim, 32768, 32768, 128, 128, density});
  }
  for (const double density : {1.0, 0.10}) run({28, 4, 128, 131072, 131072, 128, 128, density});
  std::string planned;
  const auto run_planned = [&](std::int64_t tokens, const char* name, const BlockRule& rule, double density) {
    const Planned t = time_planned({28, 4, 128, tokens, tokens, rule.q_block, rule.k_block, density}, rule,
                                   density, ++seed);
    char line[400];
    std::snprintf(line, sizeof line,
                  "{\"tokens\": %ld, \"planner\": \"%s\", \"blocks\": \"%ldx%ld\", \"threshold\": %.3f, "
                  "\"density\": %.4f, \"summary_ms\": %.4f, \"plan_ms\": %.4f, \"attention_ms\": %.4f, "
                  "\"total_ms\": %.4f}",
                  tokens, name, rule.q_block, rule.k_block, t.threshold, t.density, t.summary_ms, t.plan_ms,
                  t.attention_ms, t.total_ms);
    planned += (planned.empty() ? "" : ",\n  ") + std::string(line);
    std::printf("%s\n", line);
    std::fflush(stdout);
  };
  const auto pooled = [](std::int64_t k_block, std::int64_t pool, std::int64_t query_stride) {
    return BlockRule{
        .q_block = 128, .k_block = k_block, .pool = pool, .outliers = 1, .query_stride = query_stride};
  };
  const BlockRule antidiagonal{
      .estimator = BlockEstimator::kAntidiagonal, .q_block = 128, .k_block = 128, .stride = 8};
  for (const double density : {0.25, 0.10}) {
    run_planned(32768, "pooled 16, 1 outlier, every 4th query", pooled(128, 16, 4), density);
    run_planned(32768, "pooled 32, 1 outlier, every 8th query", pooled(128, 32, 8), density);
    run_planned(32768, "pooled 16, 1 outlier, every 8th query", pooled(64, 16, 8), density);
    run_planned(32768, "antidiagonal 8", antidiagonal, density);
  }
  run_planned(8192, "pooled 32, 1 outlier, every 8th query", pooled(128, 32, 8), 0.25);
  run_planned(131072, "pooled 32, 1 outlier, every 8th query", pooled(128, 32, 8), 0.10);
  if (path != nullptr) {
    std::FILE* file = std::fopen(path, "w");
    if (file == nullptr) return 1;
    std::fprintf(file, "{\"block_attention\": [\n  %s\n],\n\"with_planning\": [\n  %s\n]}\n", json.c_str(),
                 planned.c_str());
    std::fclose(file);
  }
  return 0;
}

}  // namespace
}  // namespace winnow::cuda

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "check") return winnow::cuda::check_all(argc > 2 ? std::atoi(argv[2]) : 1);
  if (mode == "profile") return winnow::cuda::profile();
  if (mode == "time") return winnow::cuda::time_all(argc > 2 ? argv[2] : nullptr);
  std::fprintf(stderr, "usage: %s check | profile | time [OUT.json]\n", argv[0]);
  return 2;
}
