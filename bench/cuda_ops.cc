// The CUDA backend's operations one by one, in the shapes of Qwen2-7B: which of them a prefill or a decoded
// token spends its time in, and how far each is from the machine. JSON on stdout.
//   build/release/bin/cuda_ops [TOKENS...]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "backends/backend.h"
#include "backends/row_choice.h"
#include "core/elapsed.h"
#include "core/error.h"

namespace winnow {
namespace {

constexpr std::int64_t kDim = 3584, kHeads = 28, kKvHeads = 4, kHeadDim = 128, kFfn = 18944, kVocab = 152064;
constexpr std::int64_t kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;

class Bench {
 public:
  Bench() : backend_(make_cuda_backend(Precision::kBF16, 0)) {}

  void tokens(std::int64_t count) {
    const std::int64_t rows = std::min(count, backend_->chunk_rows());
    kept(rows);
    const Matrix hidden(*backend_, DType::kF32, rows, kDim), normed(*backend_, DType::kBF16, rows, kDim);
    const Matrix ones(*backend_, DType::kF32, 1, kDim);
    add("norm", {{"rows", rows}}, 0, 6.0 * static_cast<double>(rows * kDim),
        [&] { backend_->norm({.x = hidden.view, .weight = ones.view.row<float>(0), .y = normed.view}); });
    const Matrix up(*backend_, DType::kBF16, rows, 2 * kFfn), activated(*backend_, DType::kBF16, rows, kFfn);
    add("activation", {{"rows", rows}}, 0, 6.0 * static_cast<double>(rows * kFfn),
        [&] { backend_->activation({.x = up.view, .y = activated.view}); });
    Cache cache(*backend_, rows);
    const Matrix qkv(*backend_, DType::kBF16, rows, kQkv);
    RopeTable rope{backend_->allocate(rows * kHeadDim * 2), backend_->allocate(rows * kHeadDim * 2), rows,
                   kHeadDim};
    std::vector<std::int32_t> positions(static_cast<std::size_t>(rows));
    std::iota(positions.begin(), positions.end(), 0);
    add("rope and append", {{"rows", rows}}, 0, 4.0 * static_cast<double>(rows * kQkv), [&] {
      cache.kv.rows = 0;
      cache.kv.positions.clear();
      backend_->rope_append(
          {.qkv = qkv.view, .positions = positions, .rope = &rope, .q = cache.q.view, .kv = &cache.kv});
    });
    attention(count);
  }

  // Products on what stages leave of a prompt.
  void kept(std::int64_t rows) {
    linear(rows, kDim, kQkv, false);
    linear(rows, kDim, kDim, true);
    linear(rows, kDim, 2 * kFfn, false);
    gated(rows);
    linear(rows, kFfn, kDim, true);
  }

  void decode(std::int64_t cache_rows) {
    linear(1, kDim, kQkv, false);
    linear(1, kDim, kDim, true);
    linear(1, kDim, 2 * kFfn, false);
    linear(1, kFfn, kDim, true);
    linear(1, kDim, kVocab, false);
    for (const DType type : {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0, DType::kQ4_K}) {
      stored(type, kDim, 2 * kFfn);
      stored(type, kFfn, kDim);
    }
    Cache cache(*backend_, cache_rows);
    const Matrix out(*backend_, DType::kBF16, 1, kHeads * kHeadDim);
    const std::int64_t row = cache_rows - 1;
    add("decode attention", {{"cache", cache_rows}}, 0,
        4.0 * static_cast<double>(cache_rows * kKvHeads * kHeadDim), [&] {
          backend_->attention({.q = cache.q.view.slice(0, 1),
                               .query_rows = {&row, 1},
                               .kv = &cache.kv,
                               .scale = 0.088f,
                               .out = out.view});
        });
  }

  const nlohmann::json& results() const { return results_; }
  std::string description() const { return backend_->description(); }

 private:
  struct Matrix {
    Buffer buffer;
    MatrixView view;
    // Noise: zeros run faster than data.
    Matrix(Backend& backend, DType dtype, std::int64_t rows, std::int64_t cols)
        : buffer(backend.allocate(rows * dtype_bytes(dtype, cols))), view{buffer.as<>(), dtype, rows, cols} {
      std::vector<float> row(static_cast<std::size_t>(cols));
      const Buffer floats = backend.allocate(cols * 4);
      std::uint32_t state = 7;
      for (std::int64_t r = 0; r < std::min<std::int64_t>(rows, 64); ++r) {
        for (float& value : row) {
          state = state * 1664525u + 1013904223u;
          value = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
        }
        backend.upload(row.data(), floats.as<>(), cols * 4);
        for (std::int64_t to = r; to < rows; to += 64) {
          backend.convert({floats.as<>(), DType::kF32, 1, cols}, view.slice(to, 1));
        }
      }
    }
  };

  struct Cache {
    LayerKv kv;
    Matrix q;
    Cache(Backend& backend, std::int64_t rows) : q(backend, DType::kBF16, rows, kHeads * kHeadDim) {
      kv.kv_heads = kKvHeads;
      kv.head_dim = kHeadDim;
      backend.reserve(kv, rows);
      const std::int64_t piece = std::min<std::int64_t>(rows, 4096);
      const Matrix qkv(backend, DType::kBF16, piece, kQkv);
      const RopeTable no_rotation;
      std::vector<std::int32_t> positions(static_cast<std::size_t>(piece));
      for (std::int64_t begin = 0; begin < rows; begin += piece) {
        const std::int64_t n = std::min(piece, rows - begin);
        backend.rope_append({.qkv = qkv.view.slice(0, n),
                             .positions = std::span(positions).first(static_cast<std::size_t>(n)),
                             .rope = &no_rotation,
                             .q = q.view.slice(begin, n),
                             .kv = &kv});
      }
    }
  };

  void linear(std::int64_t rows, std::int64_t in, std::int64_t out, bool accumulate) {
    // Over several weights, so that decoding finds none of them in the cache.
    const std::int64_t copies = std::max<std::int64_t>(1, (std::int64_t{200} << 20) / (in * out * 2));
    std::vector<std::unique_ptr<Weight>> weights;
    for (std::int64_t i = 0; i < copies; ++i) {
      const UniformRows part{out, static_cast<std::uint64_t>(i), 0.02f};
      weights.push_back(backend_->pack_uniform(in, {&part, 1}));
    }
    const Matrix x(*backend_, DType::kBF16, rows, in);
    const Matrix y(*backend_, accumulate ? DType::kF32 : DType::kBF16, rows, out);
    std::size_t next = 0;
    add("linear", {{"rows", rows}, {"in", in}, {"out", out}, {"accumulate", accumulate}},
        2.0 * static_cast<double>(rows * in * out), static_cast<double>(in * out * 2), [&] {
          backend_->linear({.x = x.view,
                            .weight = weights[next++ % weights.size()].get(),
                            .y = y.view,
                            .accumulate = accumulate});
        });
  }

  // The up product with its activation.
  void gated(std::int64_t rows) {
    const UniformRows part{2 * kFfn, 1, 0.02f};
    const std::unique_ptr<Weight> weight = backend_->pack_uniform(kDim, {&part, 1});
    const Matrix x(*backend_, DType::kBF16, rows, kDim);
    const Matrix up(*backend_, DType::kBF16, rows, 2 * kFfn), activated(*backend_, DType::kBF16, rows, kFfn);
    add("linear and activation", {{"rows", rows}, {"in", kDim}, {"out", kFfn}},
        4.0 * static_cast<double>(rows * kDim * kFfn), static_cast<double>(4 * kDim * kFfn), [&] {
          backend_->linear_activation({.x = x.view, .weight = weight.get(), .y = up.view},
                                      {.x = up.view, .y = activated.view});
        });
  }

  // A decoded token's product with weights as their file stores them: random blocks with small scales.
  void stored(DType type, std::int64_t in, std::int64_t out) {
    const StoredRows part{type, out, [&](std::int64_t, std::int64_t, std::span<std::byte> bytes) {
                            std::uint32_t state = 7;
                            for (std::byte& byte : bytes) {
                              state = state * 1664525u + 1013904223u;
                              byte = static_cast<std::byte>(state >> 24);
                            }
                            const auto block = static_cast<std::size_t>(dtype_info(type).block_bytes);
                            for (std::size_t at = 0; at < bytes.size(); at += block) {
                              bytes[at + 1] = bytes[at + 3] = std::byte{0x24};
                            }
                          }};
    const RowReader zeros = [](std::int64_t, std::int64_t, std::span<float> values) {
      std::ranges::fill(values, 0.0f);
    };
    std::vector<std::unique_ptr<Weight>> weights;  // several, as in linear()
    for (int i = 0; i < 3; ++i) weights.push_back(backend_->pack_stored(out, in, zeros, {&part, 1}));
    const Matrix x(*backend_, DType::kBF16, 1, in), y(*backend_, DType::kBF16, 1, out);
    std::size_t next = 0;
    add("linear, as stored", {{"type", dtype_info(type).name}, {"in", in}, {"out", out}},
        2.0 * static_cast<double>(in * out), static_cast<double>(weights[0]->decode_bytes()), [&] {
          backend_->linear(
              {.x = x.view, .weight = weights[next++ % weights.size()].get(), .y = y.view, .decode = true});
        });
  }

  void attention(std::int64_t count) {
    Cache cache(*backend_, count);
    const Matrix out(*backend_, DType::kBF16, count, kHeads * kHeadDim);
    std::vector<std::int64_t> rows(static_cast<std::size_t>(count));
    std::iota(rows.begin(), rows.end(), 0);
    const auto attend = [&](std::span<const std::int64_t> query_rows) {
      const std::int64_t n = std::ssize(query_rows);
      for (std::int64_t begin = 0; begin < n; begin += backend_->chunk_rows()) {
        const std::int64_t chunk = std::min(backend_->chunk_rows(), n - begin);
        backend_->attention({.q = cache.q.view.slice(begin, chunk),
                             .query_rows = query_rows.subspan(begin, chunk),
                             .kv = &cache.kv,
                             .scale = 0.088f,
                             .out = out.view.slice(begin, chunk)});
      }
    };
    const auto pairs = [](std::span<const std::int64_t> query_rows) {
      double sum = 0;
      for (const std::int64_t row : query_rows) sum += static_cast<double>(row + 1);
      return sum;
    };
    add("attention", {{"tokens", count}}, 4.0 * kHeads * kHeadDim * pairs(rows), 0, [&] { attend(rows); });
    std::vector<std::int64_t> kept;
    for (std::int64_t row = 0; row < count; ++row) {
      if (row % 5 != 2) kept.push_back(row);
    }
    add("attention, queries with gaps", {{"tokens", count}}, 4.0 * kHeads * kHeadDim * pairs(kept), 0,
        [&] { attend(kept); });
    std::vector<float> scores(static_cast<std::size_t>(count));
    add("window scores", {{"tokens", count}}, 2.0 * 64 * kHeads * kHeadDim * static_cast<double>(count), 0,
        [&] {
          backend_->window_scores(
              {.q = cache.q.view.slice(count - 64, 64), .kv = &cache.kv, .scale = 0.088f, .scores = scores});
        });
    const std::int64_t tail = count - count / 10;
    add("a stage's choice", {{"tokens", count}}, 0, 0, [&] {
      backend_->choose_rows({.scoring = {.q = cache.q.view.slice(count - 64, 64),
                                         .kv = &cache.kv,
                                         .scale = 0.088f,
                                         .scores = {}},
                             .tokens = count,
                             .pool = 7,
                             .head = 4,
                             .tail = tail,
                             .by_score = (tail - 4) * 3 / 4});
    });
    const Matrix hidden(*backend_, DType::kF32, count, kDim);
    add("keep rows", {{"tokens", count}}, 0, static_cast<double>(std::ssize(kept)) * kDim * 8,
        [&] { backend_->keep_rows(hidden.view, kept); });
  }

  void add(const char* op, nlohmann::json shape, double flops, double bytes,
           const std::function<void()>& run) {
    for (int i = 0; i < 3; ++i) run();
    backend_->finish();
    const auto once = std::chrono::steady_clock::now();
    run();
    backend_->finish();
    const double estimate = std::max(0.005, ms_since(once));
    const int runs = std::clamp(static_cast<int>(15 / estimate), 3, 400);
    std::vector<double> samples;
    for (int sample = 0; sample < 5; ++sample) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < runs; ++i) run();
      backend_->finish();
      samples.push_back(ms_since(start) / runs);
    }
    std::sort(samples.begin(), samples.end());
    nlohmann::json result = {
        {"op", op}, {"shape", std::move(shape)}, {"ms", samples[2]}, {"samples_ms", samples}};
    if (flops > 0) result["tflops_per_s"] = flops / samples[2] / 1e9;
    if (bytes > 0) result["gbytes_per_s"] = bytes / samples[2] / 1e6;
    std::fprintf(stderr, "%-30s %-64s %10.4f ms %8.1f TFLOP/s %8.1f GB/s\n", op,
                 result["shape"].dump().c_str(), samples[2], flops / samples[2] / 1e9,
                 bytes / samples[2] / 1e6);
    results_.push_back(std::move(result));
  }

  std::unique_ptr<Backend> backend_;
  nlohmann::json results_ = nlohmann::json::array();
};

}  // namespace
}  // namespace winnow

int main(int argc, char** argv) {
  try {
    winnow::Bench bench;
    std::vector<std::int64_t> lengths;
    for (int i = 1; i < argc; ++i) lengths.push_back(std::atoll(argv[i]));
    if (lengths.empty()) lengths = {4096, 32768};
    for (const std::int64_t length : lengths) bench.tokens(length);
    for (const std::int64_t rows : {3276, 1677, 687, 337, 236}) bench.kept(rows);
    bench.decode(4096);
    std::puts(nlohmann::json{{"backend", bench.description()}, {"ops", bench.results()}}.dump(1).c_str());
  } catch (const winnow::Error& error) {
    std::fprintf(stderr, "cuda_ops: %s\n", error.what());
    return 1;
  }
}
