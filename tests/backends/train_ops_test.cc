// Gradients of the training ops against central differences of their formulas, computed in double.
#include "backends/train_ops.h"

#include <functional>
#include <numbers>

#include "support/backend_test_util.h"

namespace winnow::testing {
namespace {

using Doubles = std::vector<double>;

MatrixView view(std::vector<float>& values, std::int64_t rows) {
  return {values.data(), DType::kF32, rows, static_cast<std::int64_t>(values.size()) / rows};
}

// d sum_i weights_i f(x)_i / dx_j by central differences, for each j.
Doubles differences(const std::function<Doubles(const Doubles&)>& f, const std::vector<float>& x,
                    const std::vector<float>& weights) {
  const auto value = [&](const Doubles& at) {
    const Doubles y = f(at);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * weights[i];
    return sum;
  };
  Doubles at(x.begin(), x.end()), result;
  constexpr double kStep = 1e-4;
  for (double& element : at) {
    const double before = element;
    element = before + kStep;
    const double above = value(at);
    element = before - kStep;
    const double below = value(at);
    element = before;
    result.push_back((above - below) / (2 * kStep));
  }
  return result;
}

// Every element within 1e-3 of the largest, and the whole within 1e-4: a gradient that is wrong anywhere
// fails.
void expect_gradient(const std::vector<float>& found, const Doubles& expected) {
  ASSERT_EQ(found.size(), expected.size());
  double largest = 0, error = 0, norm = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i], expected[i], 1e-3 * largest) << "element " << i;
    error += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  EXPECT_LT(std::sqrt(error / norm), 1e-4);
}

// --- the formulas
// ---------------------------------------------------------------------------------------------------

Doubles norm(NormKind kind, const Doubles& x, const std::vector<float>& weight, double epsilon) {
  const std::size_t dim = weight.size();
  Doubles y(x.size());
  for (std::size_t row = 0; row < x.size(); row += dim) {
    double mean = 0, squares = 0;
    for (std::size_t i = 0; i < dim && kind == NormKind::kLayer; ++i)
      mean += x[row + i] / static_cast<double>(dim);
    for (std::size_t i = 0; i < dim; ++i) squares += (x[row + i] - mean) * (x[row + i] - mean);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(dim) + epsilon);
    for (std::size_t i = 0; i < dim; ++i) y[row + i] = (x[row + i] - mean) * scale * weight[i];
  }
  return y;
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}
double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }

Doubles activate(ActivationKind kind, const Doubles& x, std::int64_t rows) {
  const auto cols = static_cast<std::int64_t>(x.size()) / rows, dim = is_gated(kind) ? cols / 2 : cols;
  Doubles y;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < dim; ++i) {
      const double first = x[r * cols + i], second = is_gated(kind) ? x[r * cols + dim + i] : 0;
      switch (kind) {
        case ActivationKind::kSiluGated: y.push_back(silu(first) * second); break;
        case ActivationKind::kGeluTanhGated: y.push_back(gelu_tanh(first) * second); break;
        case ActivationKind::kGeluTanh: y.push_back(gelu_tanh(first)); break;
        case ActivationKind::kGeluErf: y.push_back(gelu_erf(first)); break;
      }
    }
  }
  return y;
}

// Norms of the heads of q and k, and rotation.
Doubles rotate(const Doubles& x, std::int64_t rows, const HeadSizes& sizes, const RopeTable& rope,
               const std::vector<float>& q_norm, const std::vector<float>& k_norm) {
  Doubles y = x;
  const std::int64_t dim = sizes.head_dim, half = rope.rotary_dim / 2;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t head = 0; head < sizes.heads + sizes.kv_heads; ++head) {
      double* h = y.data() + row * sizes.qkv_dim() + head * dim;
      if (!q_norm.empty()) {
        const auto& weight = head < sizes.heads ? q_norm : k_norm;
        const Doubles normed = norm(NormKind::kRms, Doubles(h, h + dim), weight, 1e-6);
        std::copy(normed.begin(), normed.end(), h);
      }
      for (std::int64_t i = 0; i < half; ++i) {
        const double cos = rope.cos.as<float>()[row * half + i], sin = rope.sin.as<float>()[row * half + i];
        const double first = h[i], second = h[half + i];
        h[i] = first * cos - second * sin;
        h[half + i] = first * sin + second * cos;
      }
    }
  }
  return y;
}

struct AttentionCase {
  HeadSizes sizes;
  std::int64_t rows, window;
  double scale;
};

Doubles attend(const AttentionCase& c, const Doubles& x, const Doubles& keep) {
  const HeadSizes& s = c.sizes;
  Doubles out(static_cast<std::size_t>(c.rows * s.q_dim()));
  for (std::int64_t h = 0; h < s.heads; ++h) {
    const std::int64_t kv = h / (s.heads / s.kv_heads);
    for (std::int64_t i = 0; i < c.rows; ++i) {
      const double* q = x.data() + i * s.qkv_dim() + h * s.head_dim;
      Doubles share(static_cast<std::size_t>(i + 1));
      double sum = 0;
      for (std::int64_t j = c.window > 0 ? std::max<std::int64_t>(0, i - c.window + 1) : 0; j <= i; ++j) {
        const double* k = x.data() + j * s.qkv_dim() + s.q_dim() + kv * s.head_dim;
        share[j] = std::exp(c.scale * std::inner_product(q, q + s.head_dim, k, 0.0)) * (i == j ? 1 : keep[j]);
        sum += share[j];
      }
      for (std::int64_t j = 0; j <= i; ++j) {
        const double* v = x.data() + j * s.qkv_dim() + s.q_dim() + s.kv_dim() + kv * s.head_dim;
        for (std::int64_t d = 0; d < s.head_dim; ++d)
          out[i * s.q_dim() + h * s.head_dim + d] += share[j] / sum * v[d];
      }
    }
  }
  return out;
}

// --- the tests
// ------------------------------------------------------------------------------------------------------

TEST(TrainOps, NormGradient) {
  const TrainOps ops(2);
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const std::int64_t dim : {3, 16, 37}) {
      constexpr std::int64_t kRows = 5;
      auto x = random_floats(kRows * dim, 1), weight = random_floats(dim, 2),
           dy = random_floats(kRows * dim, 3);
      std::vector<float> dx(x.size(), 0.5f);
      ops.norm_backward({.kind = kind,
                         .x = view(x, kRows),
                         .dy = view(dy, kRows),
                         .dx = view(dx, kRows),
                         .weight = weight.data(),
                         .epsilon = 1e-5f,
                         .accumulate = true});
      for (float& value : dx) value -= 0.5f;
      expect_gradient(dx,
                      differences([&](const Doubles& at) { return norm(kind, at, weight, 1e-5); }, x, dy));
    }
  }
}

TEST(TrainOps, ActivationGradient) {
  const TrainOps ops(2);
  for (const ActivationKind kind : {ActivationKind::kSiluGated, ActivationKind::kGeluTanhGated,
                                    ActivationKind::kGeluTanh, ActivationKind::kGeluErf}) {
    SCOPED_TRACE(static_cast<int>(kind));
    constexpr std::int64_t kRows = 3, kDim = 21;
    auto x = random_floats(kRows * kDim * (is_gated(kind) ? 2 : 1), 4, 2.0f),
         dy = random_floats(kRows * kDim, 5);
    std::vector<float> dx(x.size());
    ops.activation_backward(
        {.kind = kind, .x = view(x, kRows), .dy = view(dy, kRows), .dx = view(dx, kRows)});
    expect_gradient(dx, differences([&](const Doubles& at) { return activate(kind, at, kRows); }, x, dy));
  }
}

TEST(TrainOps, RopeAndItsGradient) {
  const TrainOps ops(2);
  const auto backend = make_reference_backend(Precision::kF32);
  constexpr std::int64_t kRows = 4;
  const HeadSizes sizes{4, 2, 10};
  for (const std::int64_t rotary : {0, 6, 10}) {
    for (const bool normed : {false, true}) {
      const RopeTable rope = make_rope(*backend, kRows, rotary);
      auto x = random_floats(kRows * sizes.qkv_dim(), 6), dy = random_floats(kRows * sizes.qkv_dim(), 7);
      const auto q_norm = normed ? random_floats(10, 8) : std::vector<float>(),
                 k_norm = normed ? random_floats(10, 9) : q_norm;
      const auto formula = [&](const Doubles& at) { return rotate(at, kRows, sizes, rope, q_norm, k_norm); };
      std::vector<float> y(x.size()), gradient = dy;
      const RopeParams forward{.sizes = sizes,
                               .rope = &rope,
                               .q_norm = normed ? q_norm.data() : nullptr,
                               .k_norm = normed ? k_norm.data() : nullptr,
                               .norm_epsilon = 1e-6f,
                               .x = view(x, kRows),
                               .y = view(y, kRows)};
      ops.rope(forward);
      const Doubles expected = formula(Doubles(x.begin(), x.end()));
      for (std::size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], expected[i], 1e-5);
      ops.rope_backward({.forward = forward, .gradient = view(gradient, kRows)});
      expect_gradient(gradient, differences(formula, x, dy));
    }
  }
}

void check_attention(const AttentionCase& c, std::vector<float> keep) {
  SCOPED_TRACE(::testing::Message() << c.rows << " rows, window " << c.window << ", " << keep.size()
                                    << " numbers of keep");
  const TrainOps ops(2);
  const bool masked = !keep.empty();
  auto x = random_floats(c.rows * c.sizes.qkv_dim(), 10), dy = random_floats(c.rows * c.sizes.q_dim(), 11);
  const Doubles all(static_cast<std::size_t>(c.rows), 1.0),
      kept = masked ? Doubles(keep.begin(), keep.end()) : all;
  std::vector<float> out(dy.size()), dx(x.size()), log_sums(static_cast<std::size_t>(c.sizes.heads * c.rows)),
      dkeep(keep.size());
  const MaskedAttentionParams forward{.sizes = c.sizes,
                                      .qkv = view(x, c.rows),
                                      .scale = static_cast<float>(c.scale),
                                      .window = c.window,
                                      .keep = keep,
                                      .out = view(out, c.rows),
                                      .log_sums = log_sums};
  ops.attention(forward);
  const Doubles expected = attend(c, Doubles(x.begin(), x.end()), kept);
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], expected[i], 1e-5);
  ops.attention_backward(
      {.forward = forward, .dout = view(dy, c.rows), .dqkv = view(dx, c.rows), .dkeep = dkeep});
  if (c.rows < 40) {
    expect_gradient(dx, differences([&](const Doubles& at) { return attend(c, at, kept); }, x, dy));
    if (!masked) return;
    const Doubles at_x(x.begin(), x.end());
    expect_gradient(dkeep, differences([&](const Doubles& at) { return attend(c, at_x, at); }, keep, dy));
    return;
  }
  // Larger than a tile: along one random direction.
  const auto direction = random_floats(static_cast<std::int64_t>(x.size()), 12);
  const auto value = [&](double step) {
    Doubles at(x.begin(), x.end());
    for (std::size_t i = 0; i < at.size(); ++i) at[i] += step * direction[i];
    const Doubles y = attend(c, at, kept);
    return std::inner_product(y.begin(), y.end(), dy.begin(), 0.0);
  };
  const double slope = (value(1e-5) - value(-1e-5)) / 2e-5;
  EXPECT_NEAR(std::inner_product(dx.begin(), dx.end(), direction.begin(), 0.0), slope,
              1e-3 * std::abs(slope));
}

TEST(TrainOps, AttentionAndItsGradient) {
  std::vector<float> soft(9), hard(9);
  for (std::size_t i = 0; i < soft.size(); ++i)
    soft[i] = 0.1f + 0.1f * static_cast<float>(i), hard[i] = i % 3 == 1 ? 0.0f : 1.0f;
  for (const std::int64_t window : {0, 4}) {
    const AttentionCase c{{4, 2, 6}, 9, window, 0.5};
    check_attention(c, {});
    check_attention(c, soft);
    check_attention(c, hard);
  }
  check_attention({{3, 1, 5}, 300, 0, 0.4}, {});
  check_attention({{3, 1, 5}, 300, 150, 0.4}, {});
}

TEST(TrainOps, AKeyThatDoesNotCountIsAsIfItWereNotThere) {
  const TrainOps ops(1);
  const HeadSizes sizes{2, 1, 4};
  auto x = random_floats(3 * sizes.qkv_dim(), 13);
  std::vector<float> without(x.begin(), x.begin() + sizes.qkv_dim());
  without.insert(without.end(), x.begin() + 2 * sizes.qkv_dim(), x.end());
  std::vector<float> out(3 * 8), out_without(2 * 8), sums(6), sums_without(4), keep{1, 0, 1};
  ops.attention({.sizes = sizes, .qkv = view(x, 3), .keep = keep, .out = view(out, 3), .log_sums = sums});
  ops.attention(
      {.sizes = sizes, .qkv = view(without, 2), .out = view(out_without, 2), .log_sums = sums_without});
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(out[16 + i], out_without[8 + i], 1e-6);
}

TEST(TrainOps, ProbabilitiesAreShown) {
  const TrainOps ops(2);
  const HeadSizes sizes{2, 1, 4};
  constexpr std::int64_t kRows = 150;
  auto x = random_floats(kRows * sizes.qkv_dim(), 14);
  std::vector<float> out(kRows * 8), sums(2 * kRows), seen(2 * kRows);
  const VisitProbs visit = [&](const ProbsTile& tile) {
    EXPECT_EQ(tile.first_key, 0);
    for (std::int64_t r = 0; r < tile.queries; ++r) {
      for (std::int64_t j = 0; j < tile.keys; ++j) {
        seen[tile.head * kRows + tile.first_query + r] += tile.probs[r * tile.keys + j];
      }
    }
  };
  ops.attention(
      {.sizes = sizes, .qkv = view(x, kRows), .out = view(out, kRows), .log_sums = sums, .visit = &visit});
  for (const float sum : seen) EXPECT_NEAR(sum, 1.0f, 1e-5f);
}

TEST(TrainOps, LossesAndTheirGradients) {
  const TrainOps ops(2);
  constexpr std::int64_t kRows = 3, kVocab = 37;
  auto x = random_floats(kRows * kVocab, 15, 2.0f), teacher = random_floats(kRows * kVocab, 16, 2.0f);
  const std::vector<std::int32_t> targets{0, 36, 17};
  const std::vector<float> weights{0.5f, 1.0f, 0.0f};
  const auto log_softmax = [](const double* row) {
    double sum = 0;
    for (std::int64_t i = 0; i < kVocab; ++i) sum += std::exp(row[i]);
    Doubles result;
    for (std::int64_t i = 0; i < kVocab; ++i) result.push_back(row[i] - std::log(sum));
    return result;
  };
  for (const bool with_teacher : {false, true}) {
    const Doubles teacher_at(teacher.begin(), teacher.end());
    const auto formula = [&](const Doubles& at) {
      Doubles losses;
      for (std::int64_t r = 0; r < kRows; ++r) {
        const Doubles q = log_softmax(at.data() + r * kVocab),
                      p = log_softmax(teacher_at.data() + r * kVocab);
        double kl = 0;
        for (std::int64_t i = 0; i < kVocab; ++i) kl += std::exp(p[i]) * (p[i] - q[i]);
        losses.push_back(with_teacher ? kl : -q[targets[r]]);
      }
      return losses;
    };
    auto gradient = x;
    std::vector<float> losses(kRows);
    const MatrixView teacher_view = view(teacher, kRows);
    ops.loss({.logits = view(gradient, kRows),
              .targets = targets,
              .weights = weights,
              .teacher = with_teacher ? &teacher_view : nullptr,
              .losses = losses});
    const Doubles expected = formula(Doubles(x.begin(), x.end()));
    for (std::int64_t r = 0; r < kRows; ++r) EXPECT_NEAR(losses[r], expected[r], 1e-5);
    expect_gradient(gradient, differences(formula, x, weights));
  }
}

TEST(TrainOps, ProductsInEveryLayout) {
  const TrainOps ops(2);
  constexpr std::int64_t m = 5, n = 7, k = 3;
  const auto a = random_floats(m * k, 17), b = random_floats(k * n, 18);
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      std::vector<float> c(m * n, 1.0f);
      ops.product({.m = m,
                   .n = n,
                   .k = k,
                   .a = a.data(),
                   .lda = ta ? m : k,
                   .transpose_a = ta,
                   .b = b.data(),
                   .ldb = tb ? k : n,
                   .transpose_b = tb,
                   .c = c.data(),
                   .ldc = n,
                   .alpha = 2.0f,
                   .beta = 1.0f});
      for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
          double sum = 0;
          for (std::int64_t l = 0; l < k; ++l)
            sum += static_cast<double>(a[ta ? l * m + i : i * k + l]) * b[tb ? j * k + l : l * n + j];
          EXPECT_NEAR(c[i * n + j], 1 + 2 * sum, 1e-5);
        }
      }
    }
  }
}

}  // namespace
}  // namespace winnow::testing
