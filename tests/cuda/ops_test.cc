// Every op of the CUDA backend against the reference. Skips where there is no GPU.
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "backends/row_choice.h"
#include "core/error.h"
#include "core/uniform.h"
#include "sparsity/token_pruner.h"
#include "support/cuda_test.h"
#include "support/nan_window.h"
#include "support/scratch.h"
#include "support/stored_matrix.h"

namespace winnow::testing {
namespace {

// bf16 products of the tensor cores are summed in another order than the reference's, in float32.
constexpr Tolerance kCudaLinear = {2e-5, 2e-5};
// Chained float32 sums of a whole cache; exp within 2 ulp.
constexpr Tolerance kCudaAttentionF32 = {3e-5, 3e-5};
// Logits of the window come from tensor cores, float32 sums of head_dim terms.
constexpr Tolerance kCudaWindowScores = {1e-6, 2e-3};

class Cuda : public CudaTest {
 protected:
  std::string device_name() const {
    const std::string description = cuda_->description();  // cuda, NAME, bf16
    return description.substr(6, description.rfind(',') - 6);
  }
  Tolerance attention_tolerance() const { return bf16() ? kAttentionBf16 : kCudaAttentionF32; }
};

INSTANTIATE_TEST_SUITE_P(Gpu, Cuda, ::testing::ValuesIn(kPrecisions), precision_of);

std::vector<std::int64_t> last_rows(std::int64_t rows, std::int64_t count) {
  std::vector<std::int64_t> result(static_cast<std::size_t>(std::min(rows, count)));
  std::iota(result.begin(), result.end(), rows - std::ssize(result));
  return result;
}
std::vector<std::int64_t> rows_with_gaps(std::int64_t rows) {
  std::vector<std::int64_t> result;
  for (std::int64_t row = 0; row < rows - 1; row += 1 + row * 7 % 5) result.push_back(row);
  result.push_back(rows - 1);
  return result;
}

TEST_P(Cuda, Norm) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const std::int64_t dim : {1, 7, 576, 3584}) {
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(::testing::Message() << "dim " << dim << ", accumulate " << accumulate);
        const DType out = accumulate ? DType::kF32 : cuda_->compute_dtype();
        const auto run = [&](Backend& backend) {
          const TestMatrix x(backend, DType::kF32, 5, dim, random_floats(5 * dim, 1, 3.0f));
          const Buffer weight = to_backend(backend, random_floats(dim, 2)),
                       bias = to_backend(backend, random_floats(dim, 3));
          TestMatrix y(backend, out, 5, dim, random_floats(5 * dim, 4));
          backend.norm({.kind = kind,
                        .x = x.view(),
                        .weight = weight.as<float>(),
                        .bias = kind == NormKind::kLayer ? bias.as<float>() : nullptr,
                        .epsilon = 1e-5f,
                        .y = y.view(),
                        .accumulate = accumulate});
          return y.floats();
        };
        expect_close(run(*cuda_), run(*reference_), stored_as(out, {1e-5, 1e-5}));
      }
    }
  }
}

std::unique_ptr<Weight> random_weight(Backend& backend, std::int64_t out_features, std::int64_t in_features) {
  const auto values =
      random_floats(out_features * in_features, 11, 1.0f / std::sqrt(static_cast<float>(in_features)));
  return backend.pack(
      out_features, in_features, [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
        std::copy(values.begin() + begin * in_features, values.begin() + end * in_features, out.begin());
      });
}

TEST_P(Cuda, Linear) {
  for (const auto& [in, out] : {std::pair{1, 1}, {7, 33}, {33, 7}, {64, 100}, {576, 64}, {512, 1536}}) {
    const auto weight = random_weight(*cuda_, out, in), expected = random_weight(*reference_, out, in);
    for (const std::int64_t rows : {0, 1, 2, 5, 8, 9, 17, 129}) {
      for (const int mode : {0, 1, 2}) {  // to the compute dtype, to float32, added to float32
        for (const bool bias : {false, true}) {
          SCOPED_TRACE(::testing::Message() << "rows " << rows << ", in " << in << ", out " << out
                                            << ", mode " << mode << ", bias " << bias);
          const DType y_dtype = mode == 0 ? cuda_->compute_dtype() : DType::kF32;
          // Where bf16 is stored, the bias may be rounded too: one that is bf16 loses nothing.
          std::vector<float> biases = random_floats(out, 13);
          for (float& value : biases) value = to_float(to_bf16(value));
          const auto run = [&, in = in, out = out](Backend& backend, const Weight& w) {
            const TestMatrix x(backend, backend.compute_dtype(), rows, in, random_floats(rows * in, 12));
            const Buffer bias_buffer = to_backend(backend, biases);
            TestMatrix y(backend, y_dtype, rows, out, random_floats(rows * out, 14));
            backend.linear({.x = x.view(),
                            .weight = &w,
                            .bias = bias ? bias_buffer.as<float>() : nullptr,
                            .y = y.view(),
                            .accumulate = mode == 2});
            return y.floats();
          };
          // For odd sizes cuBLASLt rounds before it adds the bias and once more after it.
          const bool twice = bias && y_dtype == DType::kBF16 && out % 8 != 0;
          expect_close(run(*cuda_, *weight), run(*reference_, *expected),
                       stored_as(y_dtype, twice ? Tolerance{0x1p-6, 0x1p-7} : kCudaLinear));
        }
      }
    }
  }
}

TEST_P(Cuda, Activations) {
  for (const ActivationKind kind : {ActivationKind::kSiluGated, ActivationKind::kGeluTanh,
                                    ActivationKind::kGeluErf, ActivationKind::kGeluTanhGated}) {
    for (const std::int64_t dim : {1, 7, 64, 1000}) {
      const std::int64_t cols = is_gated(kind) ? 2 * dim : dim;
      const auto run = [&](Backend& backend) {
        const TestMatrix x(backend, backend.compute_dtype(), 3, cols, random_floats(3 * cols, 5, 4.0f));
        TestMatrix y(backend, backend.compute_dtype(), 3, dim);
        backend.activation({.kind = kind, .x = x.view(), .y = y.view()});
        return y.floats();
      };
      SCOPED_TRACE(::testing::Message() << "kind " << static_cast<int>(kind) << ", dim " << dim);
      expect_close(run(*cuda_), run(*reference_), stored_as(cuda_->compute_dtype(), {5e-6, 5e-6}));
    }
  }
}

struct Gated {
  ActivationKind kind;
  std::int64_t rows, in, dim;
  bool bias = false;
};
// Numbers that bf16 holds, through the up product and its activation.
std::vector<float> gated(Backend& backend, const Gated& shape) {
  const auto rounded = [](std::int64_t count, unsigned seed, float deviation) {
    std::vector<float> values = random_floats(count, seed, deviation);
    for (float& value : values) value = to_float(to_bf16(value));
    return values;
  };
  const std::vector<float> weights =
      rounded(2 * shape.dim * shape.in, 11, 2.0f / std::sqrt(static_cast<float>(shape.in)));
  const auto weight =
      backend.pack(2 * shape.dim, shape.in, [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
        std::copy(weights.begin() + begin * shape.in, weights.begin() + end * shape.in, out.begin());
      });
  const DType dtype = backend.compute_dtype();
  const TestMatrix x(backend, dtype, shape.rows, shape.in, rounded(shape.rows * shape.in, 12, 1.0f));
  const Buffer biases = to_backend(backend, rounded(2 * shape.dim, 13, 1.0f));
  TestMatrix up(backend, dtype, shape.rows, 2 * shape.dim), y(backend, dtype, shape.rows, shape.dim);
  backend.linear_activation({.x = x.view(),
                             .weight = weight.get(),
                             .bias = shape.bias ? biases.as<float>() : nullptr,
                             .y = up.view()},
                            {.kind = shape.kind, .x = up.view(), .y = y.view()});
  return y.floats();
}
constexpr ActivationKind kGatedKinds[] = {ActivationKind::kSiluGated, ActivationKind::kGeluTanhGated};
// Two operations round both factors too, and those as large as 10 or so.
constexpr Tolerance kRoundedTwice = {0x1p-6, 0x1p-6};

TEST_P(Cuda, LinearAndActivation) {
  const auto exact = make_reference_backend(Precision::kF32);
  for (const ActivationKind kind : kGatedKinds) {
    for (const auto& [in, dim] : {std::pair{264, 136}, {7, 33}}) {
      for (const std::int64_t rows : {1, 9, 193, 385}) {
        for (const bool bias : {false, true}) {
          SCOPED_TRACE(::testing::Message() << "kind " << static_cast<int>(kind) << ", rows " << rows
                                            << ", in " << in << ", dim " << dim << ", bias " << bias);
          const Gated shape{kind, rows, in, dim, bias};
          expect_close(gated(*cuda_, shape), gated(*exact, shape), bf16() ? kRoundedTwice : kCudaLinear);
        }
      }
    }
  }
}

// What a choice of gated products is for: rows, features, columns, and the rows that share it.
struct GatedCase {
  std::int64_t rows, in, dim, rows_of_choice;
};

// Which way is taken is measured; a file of choices says so here: the kernel with row tiles taken together by
// `group`, or two steps (0). The kernel rounds its result only.
void compare_gated_products(const std::string& device, std::span<const GatedCase> cases, std::int64_t group) {
  const auto exact = make_reference_backend(Precision::kF32);
  const Scratch folder;
  nlohmann::json algorithms = nlohmann::json::object();
  for (const GatedCase& c : cases) {
    for (const int kind : {0, 3}) {
      algorithms[fmt::format("{} | gated product | rows {} in {} dim {} kind {}", device, c.rows_of_choice,
                             c.in, c.dim, kind)] =
          group == 0 ? nlohmann::json::array() : nlohmann::json::array({group});
    }
  }
  std::filesystem::create_directories(folder.file("winnow"));
  folder.write("winnow/cuda_algorithms.json",
               nlohmann::json{{"version", 2}, {"algorithms", algorithms}}.dump());
  const char* const kept = std::getenv("XDG_CACHE_HOME");
  const std::string before = kept == nullptr ? "" : kept;
  ::setenv("XDG_CACHE_HOME", folder.file("").c_str(), 1);
  const auto backend = make_cuda_backend(Precision::kBF16, 0);
  for (const GatedCase& c : cases) {
    for (const ActivationKind kind : kGatedKinds) {
      SCOPED_TRACE(::testing::Message()
                   << "group " << group << ", kind " << static_cast<int>(kind) << ", rows " << c.rows);
      const Gated shape{kind, c.rows, c.in, c.dim};
      const std::vector<float> found = gated(*backend, shape);
      expect_close(found, gated(*exact, shape),
                   group == 0 ? kRoundedTwice : stored_as(DType::kBF16, {4e-5, 4e-5}));
      EXPECT_EQ(found, gated(*backend, shape));
    }
  }
  kept == nullptr ? ::unsetenv("XDG_CACHE_HOME") : ::setenv("XDG_CACHE_HOME", before.c_str(), 1);
  // Had a way been measured, its choice would be there too. (The first of two steps adds others.)
  const nlohmann::json afterwards =
      nlohmann::json::parse(std::ifstream(folder.file("winnow/cuda_algorithms.json")));
  nlohmann::json taken = nlohmann::json::object();
  for (const auto& [key, words] : afterwards.at("algorithms").items()) {
    if (key.find("| gated product |") != std::string::npos) taken[key] = words;
  }
  EXPECT_EQ(taken, algorithms) << "group " << group;
}

TEST_P(Cuda, GatedProductsOfTheKernelAndInTwoSteps) {
  if (!bf16()) GTEST_SKIP() << "for bf16";
  const GatedCase cases[] = {
      {193, 264, 136, 200}, {256, 64, 128, 256}, {385, 72, 304, 400}, {1100, 200, 136, 1152}};
  for (const std::int64_t group : {0, 1, 2, 8}) compare_gated_products(device_name(), cases, group);
}

// More tiles than a GPU has places for, so that each takes several, with few features: all of the kernel's
// paths in the time that a race checker takes.
TEST_P(Cuda, GatedProductsInSeveralTiles) {
  if (!bf16()) GTEST_SKIP() << "for bf16";
  const GatedCase cases[] = {{1200, 8, 2000, 1216}, {193, 328, 136, 200}};
  compare_gated_products(device_name(), cases, 2);
}

TEST_P(Cuda, RopeAppend) {
  for (const bool normed : {false, true}) {
    for (const auto& [head_dim, rotary_dim] :
         {std::pair{20, 0}, {20, 8}, {20, 20}, {64, 32}, {64, 64}, {128, 128}, {256, 256}}) {
      SCOPED_TRACE(::testing::Message() << "head_dim " << head_dim << ", rotated " << rotary_dim);
      const HeadShape shape{4, 2, head_dim};
      const std::int64_t rotated = rotary_dim;
      const auto run = [&](Backend& backend) {
        const RopeTable rope = make_rope(backend, 100, rotated);
        LayerKv kv = make_kv(backend, shape, 12);
        const Buffer q_norm = to_backend(backend, random_floats(shape.head_dim, 1)),
                     k_norm = to_backend(backend, random_floats(shape.head_dim, 2));
        const TestMatrix qkv(backend, backend.compute_dtype(), 6, shape.qkv_cols(),
                             random_floats(6 * shape.qkv_cols(), 3));
        TestMatrix q(backend, backend.compute_dtype(), 6, shape.q_cols());
        const std::vector<std::int32_t> positions{3, 4, 9, 40, 41, 99};
        for (int part = 0; part < 2; ++part) {  // the second behind the first
          backend.rope_append({.qkv = qkv.view().slice(3 * part, 3),
                               .positions = std::span(positions).subspan(3 * part, 3),
                               .rope = &rope,
                               .q = q.view().slice(3 * part, 3),
                               .kv = &kv,
                               .q_norm = normed ? q_norm.as<float>() : nullptr,
                               .k_norm = normed ? k_norm.as<float>() : nullptr,
                               .norm_epsilon = 1e-6f});
        }
        EXPECT_EQ(kv.rows, 6);
        EXPECT_EQ(kv.positions, positions);
        std::vector<float> all = q.floats();
        for (const Buffer* buffer : {&kv.k, &kv.v}) {
          Buffer copy;
          const MatrixView cached = on_host(
              backend, {buffer->as<>(), backend.compute_dtype(), 6, shape.kv_heads * shape.head_dim}, copy);
          for (std::int64_t i = 0; i < cached.rows * cached.cols; ++i) {
            all.push_back(cached.dtype == DType::kBF16 ? to_float(cached.row<BF16>(0)[i])
                                                       : cached.row<float>(0)[i]);
          }
        }
        return all;
      };
      expect_close(run(*cuda_), run(*reference_), stored_as(cuda_->compute_dtype(), kNormedRope));
    }
  }
}

// With a window, positions are the rows. Queries of deviation 3, so that attention is neither flat nor a
// single key.
std::vector<float> attend(Backend& backend, const HeadShape& shape, std::int64_t cache_rows,
                          const std::vector<std::int64_t>& query_rows, const BlockPlan* plan = nullptr,
                          std::int64_t window = 0) {
  const FilledCache cache(backend, shape, cache_rows);
  const std::int64_t count = std::ssize(query_rows);
  const TestMatrix q(backend, backend.compute_dtype(), count, shape.q_cols(),
                     random_floats(count * shape.q_cols(), 5, 3.0f));
  TestMatrix out(backend, backend.compute_dtype(), count, shape.q_cols());
  BlockPlan own;
  if (plan != nullptr) {
    own = *plan;
    if (own.means != nullptr) {  // any rows will do
      auto means = std::make_shared<LayerKv>(
          FilledCache(backend, shape, block_count(cache_rows, plan->k_block), 77).kv);
      own.means = means;
    }
    plan = &own;
  }
  backend.attention({.q = q.view(),
                     .query_rows = query_rows,
                     .kv = &cache.kv,
                     .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
                     .out = out.view(),
                     .plan = plan,
                     .window = window});
  return out.floats();
}

TEST_P(Cuda, AttentionInSlidingWindows) {
  for (const std::int64_t head_dim : {20, 64, 256}) {
    const HeadShape shape{4, 2, head_dim};
    for (const std::int64_t window : {1, 30, 100, 1000}) {
      for (const auto& query_rows : {last_rows(220, 150), rows_with_gaps(220), last_rows(220, 1)}) {
        SCOPED_TRACE(::testing::Message() << "head_dim " << head_dim << ", window " << window);
        expect_close(attend(*cuda_, shape, 220, query_rows, nullptr, window),
                     attend(*reference_, shape, 220, query_rows, nullptr, window), attention_tolerance());
      }
    }
  }
}

TEST_P(Cuda, Attention) {
  for (const std::int64_t head_dim : {7, 32, 64, 80, 96, 128, 256}) {
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {9, 3}, {7, 1}}) {
      const HeadShape shape{heads, kv_heads, head_dim};
      for (const std::int64_t rows : {1, 67, 200}) {
        for (const auto& query_rows : {last_rows(rows, rows), last_rows(rows, 130), rows_with_gaps(rows),
                                       last_rows(rows, 1), std::vector<std::int64_t>{0}}) {
          SCOPED_TRACE(::testing::Message() << ::testing::PrintToString(shape) << ", cache rows " << rows
                                            << ", queries " << query_rows.size());
          expect_close(attend(*cuda_, shape, rows, query_rows), attend(*reference_, shape, rows, query_rows),
                       attention_tolerance());
        }
      }
    }
  }
}

TEST_P(Cuda, AttentionOverLongerCaches) {
  for (const std::int64_t head_dim : {64, 128}) {
    const HeadShape shape{7, 1, head_dim};
    for (const auto& query_rows : {last_rows(1000, 140), rows_with_gaps(500), last_rows(1500, 1)}) {
      expect_close(attend(*cuda_, shape, query_rows.back() + 1, query_rows),
                   attend(*reference_, shape, query_rows.back() + 1, query_rows), attention_tolerance());
    }
  }
}

TEST_P(Cuda, AttentionOverPlans) {
  for (const auto& [q_block, k_block] : {std::pair{16, 16}, {64, 32}, {128, 128}, {24, 48}, {256, 16}}) {
    for (const bool means : {false, true}) {
      // A cache of means of one kv head has the same layout in every backend.
      const HeadShape shape{6, means ? 1 : 2, 64};
      const std::vector<std::int64_t> query_rows = last_rows(333, 200);
      BlockPlan plan = full_plan(q_block, k_block, 6, query_rows);
      std::vector<std::int32_t> blocks;
      std::vector<std::int64_t> offsets{0};
      for (std::size_t i = 0; i + 1 < plan.offsets.size(); ++i) {
        for (std::int64_t j = plan.offsets[i]; j < plan.offsets[i + 1]; ++j) {
          if ((plan.blocks[j] + static_cast<std::int32_t>(i)) % 3 == 0 || j + 1 == plan.offsets[i + 1]) {
            blocks.push_back(plan.blocks[j]);
          }
        }
        offsets.push_back(std::ssize(blocks));
      }
      plan.blocks = blocks;
      plan.offsets = offsets;
      if (means) plan.means = std::make_shared<LayerKv>();
      SCOPED_TRACE(::testing::Message() << q_block << "x" << k_block << ", means " << means);
      expect_close(attend(*cuda_, shape, 333, query_rows, &plan),
                   attend(*reference_, shape, 333, query_rows, &plan), attention_tolerance());
    }
  }
}

TEST_P(Cuda, AttentionProbs) {
  const HeadShape shape{6, 2, 64};
  const std::vector<std::int64_t> query_rows = rows_with_gaps(140);
  const auto run = [&](Backend& backend, std::int64_t head) {
    const FilledCache cache(backend, shape, 150);
    const std::int64_t count = std::ssize(query_rows);
    const TestMatrix q(backend, backend.compute_dtype(), count, shape.q_cols(),
                       random_floats(count * shape.q_cols(), 5));
    std::vector<float> probs(static_cast<std::size_t>(count * 150));
    backend.attention_probs({.q = q.view(),
                             .query_rows = query_rows,
                             .kv = &cache.kv,
                             .scale = 0.125f,
                             .head = head,
                             .probs = {probs.data(), DType::kF32, count, 150}});
    return probs;
  };
  for (const std::int64_t head : {0, 2, 5}) {
    expect_close(run(*cuda_, head), run(*reference_, head), {1e-6, 1e-4});
  }
}

TEST_P(Cuda, WindowScores) {
  for (const std::int64_t head_dim : {20, 64, 128}) {
    for (const HeadReduction reduction : {HeadReduction::kMax, HeadReduction::kMean}) {
      for (const auto& [rows, window] : {std::pair{1, 1}, {70, 64}, {500, 33}}) {
        const HeadShape shape{9, 3, head_dim};
        const auto run = [&, rows = rows, window = window](Backend& backend) {
          const FilledCache cache(backend, shape, rows);
          const TestMatrix q(backend, backend.compute_dtype(), window, shape.q_cols(),
                             random_floats(window * shape.q_cols(), 5));
          const bool per_head = head_dim == 128;
          std::vector<float> scores(static_cast<std::size_t>(per_head ? 9 * rows : rows));
          backend.window_scores({.q = q.view(),
                                 .kv = &cache.kv,
                                 .scale = 0.125f,
                                 .queries = per_head ? QueryReduction::kMax : QueryReduction::kMean,
                                 .reduction = reduction,
                                 .per_head = per_head,
                                 .scores = scores,
                                 .sliding_window = rows == 500 ? 200 : 0});
          return scores;
        };
        expect_close(run(*cuda_), run(*reference_), kCudaWindowScores);
      }
    }
  }
}

TEST_P(Cuda, WindowScoresKeepWhatIsNotANumber) {
  for (const HeadReduction of_heads : {HeadReduction::kMax, HeadReduction::kMean})
    expect_nan_in_window_scores(*cuda_, 0, of_heads);
}

// Of rows of `cols` floats each.
std::vector<float> moved_up(std::vector<float> x, std::span<const std::int64_t> rows, std::int64_t cols) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(x.begin() + rows[i] * cols, cols, x.begin() + static_cast<std::int64_t>(i) * cols);
  }
  return x;
}

// The scores are the same ones, so the choice must be the host's to the last token.
TEST_P(Cuda, RowsAreChosenAsTheHostChoosesThem) {
  struct Case {
    std::int64_t rows, tokens, pool;
    double keep, quota;
    float deviation;  // of the queries; 0: scores tie
  };
  const HeadShape shape{6, 2, 64};
  for (const Case& c :
       {Case{1, 1, 7, 0.5, 1, 1}, Case{40, 30, 7, 0.5, 1, 1}, Case{3000, 2500, 31, 0.3, 0.7, 3},
        Case{2100, 2100, 1, 0.5, 1, 0}, Case{2100, 2100, 7, 0.4, 0.5, 0}, Case{900, 900, 7, 0.5, 0.5, NAN},
        Case{700, 700, 7, 0, 1, 1}, Case{700, 700, 3, 1, 1, 1}}) {
    SCOPED_TRACE(::testing::Message() << c.tokens << " tokens, pool " << c.pool << ", keep " << c.keep
                                      << ", quota " << c.quota << ", deviation " << c.deviation);
    const FilledCache cache(*cuda_, shape, c.rows);
    const std::int64_t window = std::min<std::int64_t>(c.tokens, 16);
    std::vector<float> queries = random_floats(window * shape.q_cols(), 5);
    for (float& value : queries) value *= c.deviation;
    const TestMatrix q(*cuda_, cuda_->compute_dtype(), window, shape.q_cols(), queries);
    std::vector<float> scores(static_cast<std::size_t>(c.rows));
    WindowScoresParams question{.q = q.view(), .kv = &cache.kv, .scale = 0.125f, .scores = scores};
    cuda_->window_scores(question);
    scores.erase(scores.begin(), scores.begin() + (c.rows - c.tokens));
    max_pool(scores, c.pool);
    TokenPolicy policy;
    policy.quota = c.quota;
    const Stage stage{.layer = 3, .keep = c.keep};
    StageRecord expected;
    const std::vector<std::int64_t> rows = select_tokens(scores, stage, policy, expected);

    question.scores = {};
    const StageCounts counts = stage_counts(c.tokens, stage, policy);
    const auto choice = cuda_->choose_rows({.scoring = question,
                                            .tokens = c.tokens,
                                            .pool = c.pool,
                                            .head = counts.ends.head,
                                            .tail = counts.ends.tail,
                                            .by_score = counts.by_score,
                                            .by_recency = counts.by_recency});
    ASSERT_EQ(choice->count(), std::ssize(rows));
    // What follows is issued before the host knows the choice.
    const std::vector<float> narrow = random_floats(c.tokens * 33, 6), wide = random_floats(c.tokens * 36, 7);
    TestMatrix moved(*cuda_, DType::kF32, c.tokens, 33, narrow),
        moved_wide(*cuda_, DType::kF32, c.tokens, 36, wide);  // in words of 2 and of 16 bytes
    cuda_->keep_rows(moved.view(), *choice);
    cuda_->keep_rows(moved_wide.view(), *choice);
    const TestMatrix each(*cuda_, cuda_->compute_dtype(), std::ssize(rows), shape.q_cols(),
                          random_floats(std::ssize(rows) * shape.q_cols(), 5));
    TestMatrix unseen(*cuda_, cuda_->compute_dtype(), std::ssize(rows), shape.q_cols()),
        seen(*cuda_, cuda_->compute_dtype(), std::ssize(rows), shape.q_cols());
    AttentionParams attention{
        .q = each.view(), .query_rows = {}, .kv = &cache.kv, .scale = 0.125f, .out = unseen.view()};
    attention.chosen = choice.get();
    cuda_->attention(attention);
    const ChosenRows found = choice->wait();
    EXPECT_EQ(found.rows, rows);
    EXPECT_EQ(moved.floats(), moved_up(narrow, rows, 33));
    EXPECT_EQ(moved_wide.floats(), moved_up(wide, rows, 36));
    std::vector<std::int64_t> query_rows = rows;
    for (std::int64_t& row : query_rows) row += c.rows - c.tokens;
    attention.chosen = nullptr;
    attention.query_rows = query_rows;
    attention.out = seen.view();
    cuda_->attention(attention);
    EXPECT_EQ(unseen.floats(), seen.floats());
    TestMatrix by_host(*cuda_, DType::kF32, c.tokens, 33, narrow);
    cuda_->keep_rows(by_host.view(), rows);
    EXPECT_EQ(by_host.floats(), moved.floats());
    const StageRecord record = record_choice(found, c.tokens, stage);
    EXPECT_EQ(record.fallback_applied, expected.fallback_applied);
    EXPECT_EQ(record.tokens_kept, expected.tokens_kept);
    EXPECT_EQ(record.scores_min, expected.scores_min);
    EXPECT_EQ(record.scores_max, expected.scores_max);
    EXPECT_NEAR(record.scores_abs_sum, expected.scores_abs_sum, 1e-12 * expected.scores_abs_sum);
  }
}

TEST_P(Cuda, RowsAreMovedConvertedAndMeasured) {
  for (const std::int64_t cols : {1, 33, 576}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const auto run = [&](Backend& backend) {
        TestMatrix x(backend, dtype, 50, cols, random_floats(50 * cols, 6));
        std::vector<float> result(50);
        backend.row_norms(x.view(), result);
        backend.keep_rows(x.view(), rows_with_gaps(50));
        const std::vector<float> kept = x.floats();
        result.insert(result.end(), kept.begin(), kept.begin() + std::ssize(rows_with_gaps(50)) * cols);
        TestMatrix y(backend, dtype == DType::kF32 ? DType::kBF16 : DType::kF32, 50, cols);
        const TestMatrix z(backend, dtype, 50, cols, random_floats(50 * cols, 8));
        backend.convert(z.view(), y.view());
        for (const float value : y.floats()) result.push_back(value);
        return result;
      };
      expect_close(run(*cuda_), run(*reference_), {0, 2e-6});
    }
  }
}

TEST_P(Cuda, CachesKeepTheirRowsWhenTheyGrowAndShrink) {
  const HeadShape shape{4, 2, 64};
  const auto run = [&](Backend& backend) {
    FilledCache cache(backend, shape, 60);
    EXPECT_EQ(backend.kv_bytes(2, 64, 60), cache.kv.bytes());
    backend.keep_rows(cache.kv, rows_with_gaps(60));
    backend.reserve(cache.kv, 100);
    append(backend, cache.kv, cache.rope, shape, random_floats(3 * shape.qkv_cols(), 9), 60);
    const TestMatrix q(backend, backend.compute_dtype(), 3, shape.q_cols(),
                       random_floats(3 * shape.q_cols(), 5));
    TestMatrix out(backend, backend.compute_dtype(), 3, shape.q_cols());
    const std::vector<std::int64_t> query_rows = last_rows(cache.kv.rows, 3);
    backend.attention(
        {.q = q.view(), .query_rows = query_rows, .kv = &cache.kv, .scale = 0.125f, .out = out.view()});
    return out.floats();
  };
  expect_close(run(*cuda_), run(*reference_), attention_tolerance());
}

TEST_P(Cuda, NoiseAndEmbeddingsAreThoseOfTheHost) {
  const std::vector<UniformRows> parts{{40, 7, 0.5f}, {3, 99, 2.0f}};
  const auto weight = cuda_->pack_uniform(64, parts), expected = reference_->pack_uniform(64, parts);
  EXPECT_EQ(weight->out_features(), 43);
  const std::vector<std::int32_t> ids{0, 39, 40, 42, 5};
  const TestMatrix hidden(*cuda_, DType::kF32, 5, 64);
  cuda_->gather(*weight, ids, 2.0f, hidden.view());
  std::vector<float> wanted;
  for (const std::int32_t id : ids) {
    for (std::uint64_t i = 0; i < 64; ++i) {
      const float value = id < 40 ? 0.5f * uniform(7, static_cast<std::uint64_t>(id) * 64 + i)
                                  : 2.0f * uniform(99, static_cast<std::uint64_t>(id - 40) * 64 + i);
      wanted.push_back(2.0f * (bf16() ? to_float(to_bf16(value)) : value));
    }
  }
  expect_close(hidden.floats(), wanted, {0, 0});
}

// Two parts of each type, neither whole groups of rows: products and embeddings are those of the dequantised
// weights, which float32 holds exactly.
TEST_P(Cuda, WeightsAsStoredAreTheDequantisedOnes) {
  std::vector<std::pair<DType, std::int64_t>> cases;
  for (const DType type : {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                           DType::kIQ4_NL, DType::kQ4_K, DType::kQ6_K}) {
    cases.emplace_back(type, 1536);
  }
  for (const DType type : {DType::kQ4_0, DType::kQ4_K}) cases.emplace_back(type, 8704);
  for (const auto& [type, columns] : cases) {
    const std::int64_t cols = columns;
    const StoredMatrix first(type, 37, cols, 5), second(DType::kQ8_0, 20, cols, 6);
    const std::int64_t out = first.rows + second.rows;
    std::vector<float> all = first.values;
    all.insert(all.end(), second.values.begin(), second.values.end());
    const RowReader reader = [&](std::int64_t begin, std::int64_t end, std::span<float> to) {
      std::copy(all.begin() + begin * cols, all.begin() + end * cols, to.begin());
    };
    const StoredRows parts[] = {first.part(), second.part()};
    const auto weight = cuda_->pack_stored(out, cols, reader, parts);
    ASSERT_TRUE(weight->has_decode_form());
    const auto exact = make_reference_backend(Precision::kF32);
    const auto expected = exact->pack(out, cols, reader);
    float largest = 0;
    for (const float value : all) largest = std::max(largest, std::abs(value));
    const Tolerance tolerance{1e-6 * static_cast<double>(cols) * largest, 2e-5};
    for (const std::int64_t rows : {1, 3, 4, 8}) {
      SCOPED_TRACE(::testing::Message()
                   << dtype_info(type).name << ", " << cols << " columns, " << rows << " rows");
      std::vector<float> x = random_floats(rows * cols, 7), bias = random_floats(out, 8);
      for (float& value : x) value = to_float(to_bf16(value));
      const auto run = [&](Backend& backend, const Weight& w, bool accumulate) {
        const TestMatrix input(backend, backend.compute_dtype(), rows, cols, x);
        const Buffer bias_buffer = to_backend(backend, bias);
        TestMatrix y(backend, accumulate ? DType::kF32 : backend.compute_dtype(), rows, out,
                     random_floats(rows * out, 9));
        backend.linear({.x = input.view(),
                        .weight = &w,
                        .bias = bias_buffer.as<float>(),
                        .y = y.view(),
                        .accumulate = accumulate,
                        .decode = true});
        return y.floats();
      };
      expect_close(run(*cuda_, *weight, true), run(*exact, *expected, true), tolerance);
      expect_close(run(*cuda_, *weight, false), run(*exact, *expected, false),
                   stored_as(cuda_->compute_dtype(), tolerance));
    }
    const std::vector<std::int32_t> ids{0, 36, 37, 56, 16};
    const TestMatrix hidden(*cuda_, DType::kF32, 5, cols);
    cuda_->gather(*weight, ids, 2.0f, hidden.view());
    std::vector<float> wanted;
    for (const std::int32_t id : ids) {
      for (std::int64_t i = 0; i < cols; ++i)
        wanted.push_back(2.0f * all[static_cast<std::size_t>(id * cols + i)]);
    }
    expect_close(hidden.floats(), wanted, {0, 2e-7});
  }
}

// A step's ops put off, captured and replayed give the bits of the same ops one by one, while rows and
// positions go on.
TEST_P(Cuda, StepsGiveTheSameBitsAsTheirOps) {
  const HeadShape shape{4, 2, 64};
  const auto weight = random_weight(*cuda_, shape.qkv_cols(), 128),
             back = random_weight(*cuda_, 128, shape.q_cols());
  const Buffer ones = to_backend(*cuda_, std::vector<float>(128, 1.0f));
  const RopeTable rope = make_rope(*cuda_, 100, 64);
  const auto run = [&](bool steps) {
    FilledCache cache(*cuda_, shape, 20);
    cuda_->reserve(cache.kv, 60);
    const TestMatrix hidden(*cuda_, DType::kF32, 1, 128, random_floats(128, 3));
    const TestMatrix normed(*cuda_, cuda_->compute_dtype(), 1, 128),
        qkv(*cuda_, cuda_->compute_dtype(), 1, shape.qkv_cols()),
        q(*cuda_, cuda_->compute_dtype(), 1, shape.q_cols()),
        out(*cuda_, cuda_->compute_dtype(), 1, shape.q_cols());
    for (std::int32_t step = 0; step < 5; ++step) {
      if (steps) cuda_->begin_step();
      cuda_->norm({.x = hidden.view(), .weight = ones.as<float>(), .y = normed.view()});
      cuda_->linear({.x = normed.view(), .weight = weight.get(), .y = qkv.view()});
      const std::int32_t position = 20 + step;
      const std::int64_t row = cache.kv.rows;
      cuda_->rope_append(
          {.qkv = qkv.view(), .positions = {&position, 1}, .rope = &rope, .q = q.view(), .kv = &cache.kv});
      cuda_->attention(
          {.q = q.view(), .query_rows = {&row, 1}, .kv = &cache.kv, .scale = 0.125f, .out = out.view()});
      cuda_->linear({.x = out.view(), .weight = back.get(), .y = hidden.view(), .accumulate = true});
      if (steps) cuda_->end_step();
    }
    return hidden.floats();
  };
  expect_close(run(true), run(false), {0, 0});
}

TEST_P(Cuda, TheSameCallTwiceGivesTheSameBits) {
  const HeadShape shape{9, 3, 64};
  for (const auto& query_rows : {last_rows(400, 400), rows_with_gaps(400), last_rows(400, 1)}) {
    expect_close(attend(*cuda_, shape, 400, query_rows), attend(*cuda_, shape, 400, query_rows), {0, 0});
  }
}

TEST_P(Cuda, TooMuchMemoryIsAnError) {
  EXPECT_GT(cuda_->free_bytes(), 0);
  EXPECT_THROW(cuda_->allocate(std::int64_t{1} << 50), Error);
  const TestMatrix still_works(*cuda_, DType::kF32, 2, 2, std::vector<float>{1, 2, 3, 4});
  EXPECT_EQ(still_works.floats(), (std::vector<float>{1, 2, 3, 4}));
}

TEST(CudaDevice, AGpuThatIsNotThereIsAnError) {
  try {
    make_cuda_backend(Precision::kBF16, 63);
    FAIL() << "there is a GPU number 63";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("--device cuda"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace winnow::testing
