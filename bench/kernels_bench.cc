// The two kernels that decide a prefill's time, in the demo model's shapes (SmolLM2-135M), with FLOP/s. Run
// it on an otherwise idle machine:
//   build/release/bin/kernels_bench --benchmark_repetitions=5 --benchmark_report_aggregates_only
#include <benchmark/benchmark.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/attention.h"

namespace winnow {
namespace {

constexpr int kThreads = 2;
constexpr std::int64_t kHeads = 9, kKvHeads = 3, kHeadDim = 64;

float noise(std::uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
}

Buffer random_bf16(Backend& backend, std::int64_t count, float scale) {
  Buffer buffer = backend.allocate(count * 2);
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < count; ++i) buffer.as<BF16>()[i] = to_bf16(scale * noise(state));
  return buffer;
}

void flops(benchmark::State& state, double per_iteration) {
  state.counters["FLOP/s"] = benchmark::Counter(per_iteration, benchmark::Counter::kIsIterationInvariantRate,
                                                benchmark::Counter::kIs1000);
}

// Products of `rows` x in -> out, over 30 different weights as the layers of a model have, so that weights
// come from where they come from in a prefill.
void linear(benchmark::State& state) {
  const std::int64_t rows = state.range(0), in = state.range(1), out = state.range(2);
  const auto backend = make_cpu_backend(Precision::kBF16, kThreads);
  std::vector<std::unique_ptr<Weight>> weights;
  for (std::uint32_t layer = 0; layer < 30; ++layer) {
    weights.push_back(backend->pack(out, in, [&](std::int64_t, std::int64_t, std::span<float> values) {
      std::uint32_t seed = layer;
      for (float& value : values) value = noise(seed);
    }));
  }
  const Buffer x = random_bf16(*backend, rows * in, 1), y = backend->allocate(rows * out * 2);
  std::size_t layer = 0;
  for (auto _ : state) {
    backend->linear({.x = {x.as<>(), DType::kBF16, rows, in},
                     .weight = weights[layer++ % weights.size()].get(),
                     .y = {y.as<>(), DType::kBF16, rows, out}});
  }
  flops(state, 2.0 * static_cast<double>(rows * in * out));
}
BENCHMARK(linear)
    ->ArgNames({"rows", "in", "out"})
    ->ArgsProduct({{1, 512}, {576}, {576, 960, 3072}})
    ->Args({1, 1536, 576})
    ->Args({512, 1536, 576})
    ->UseRealTime();

// Causal attention of a whole prompt on one set of tile kernels.
void attention(benchmark::State& state, const cpu::TileKernels* kernels) {
  if (kernels == nullptr) {
    state.SkipWithError("this machine does not have these instructions");
    return;
  }
  const std::int64_t tokens = state.range(0);
  const auto backend = make_cpu_backend(Precision::kBF16, kThreads);
  LayerKv kv;
  kv.kv_heads = kKvHeads;
  kv.head_dim = kHeadDim;
  backend->reserve(kv, tokens);
  const Buffer qkv = random_bf16(*backend, tokens * (kHeads + 2 * kKvHeads) * kHeadDim, 4);
  const Buffer q = backend->allocate(tokens * kHeads * kHeadDim * 2),
               out = backend->allocate(tokens * kHeads * kHeadDim * 2);
  std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
  std::iota(positions.begin(), positions.end(), 0);
  const RopeTable no_rope;
  const MatrixView q_view{q.as<>(), DType::kBF16, tokens, kHeads * kHeadDim};
  backend->rope_append({.qkv = {qkv.as<>(), DType::kBF16, tokens, (kHeads + 2 * kKvHeads) * kHeadDim},
                        .positions = positions,
                        .rope = &no_rope,
                        .q = q_view,
                        .kv = &kv});
  std::vector<std::int64_t> rows(positions.begin(), positions.end());
  for (auto _ : state) {
    cpu::attention({.q = q_view,
                    .query_rows = rows,
                    .kv = &kv,
                    .scale = 1 / std::sqrt(static_cast<float>(kHeadDim)),
                    .out = {out.as<>(), DType::kBF16, tokens, kHeads * kHeadDim}},
                   *kernels, kThreads);
  }
  flops(state, 2.0 * static_cast<double>(kHeads * kHeadDim * tokens * (tokens + 1)));
}
BENCHMARK_CAPTURE(attention, amx, cpu::amx_tile_kernels())->Arg(1024)->Arg(4096)->UseRealTime();
BENCHMARK_CAPTURE(attention, avx512_bf16, cpu::avx512_bf16_tile_kernels())->Arg(1024)->UseRealTime();
BENCHMARK_CAPTURE(attention, portable, &cpu::portable_bf16_tile_kernels())->Arg(1024)->UseRealTime();

}  // namespace
}  // namespace winnow

BENCHMARK_MAIN();
