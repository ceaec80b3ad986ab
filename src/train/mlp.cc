#include "train/mlp.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "core/check.h"

namespace winnow {
namespace {

MatrixView view(std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
  return {values.data(), DType::kF32, rows, cols};
}

}  // namespace

Mlp make_mlp(std::int64_t inputs, std::int64_t inner, std::uint64_t seed) {
  Mlp mlp{inputs, inner, std::vector<float>(static_cast<std::size_t>(Mlp::parameter_count(inputs, inner)))};
  std::mt19937_64 random(seed);
  const auto fill = [&](std::span<float> values, std::int64_t fan_in) {
    const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
    for (float& value : values)
      value = static_cast<float>(bound * (static_cast<double>(random() >> 11) * 0x1p-52 - 1));
  };
  fill(mlp.w1(), inputs);
  fill(mlp.b1(), inputs);
  fill(mlp.w2(), inner);
  return mlp;
}

void Adam::step(std::span<float> parameters, std::span<const float> gradient, float rate, float decay) {
  constexpr float kMean = 0.9f, kSquare = 0.999f, kEpsilon = 1e-8f;
  mean.resize(parameters.size());
  square.resize(parameters.size());
  ++steps;
  const float mean_bias = 1 - std::pow(kMean, static_cast<float>(steps)),
              square_bias = 1 - std::pow(kSquare, static_cast<float>(steps));
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    mean[i] = kMean * mean[i] + (1 - kMean) * gradient[i];
    square[i] = kSquare * square[i] + (1 - kSquare) * gradient[i] * gradient[i];
    const float step = mean[i] / mean_bias / (std::sqrt(square[i] / square_bias) + kEpsilon);
    parameters[i] -= rate * (step + decay * parameters[i]);
  }
}

std::span<const float> MlpPass::forward(const Mlp& mlp, std::span<const float> x) {
  const std::int64_t rows = std::ssize(x) / mlp.inputs;
  check(rows * mlp.inputs == std::ssize(x), "mlp: whole rows");
  before_.resize(static_cast<std::size_t>(rows * mlp.inner));
  active_.resize(before_.size());
  for (std::int64_t row = 0; row < rows; ++row)
    std::copy(mlp.b1().begin(), mlp.b1().end(), before_.begin() + row * mlp.inner);
  ops_.product({.m = rows,
                .n = mlp.inner,
                .k = mlp.inputs,
                .a = x.data(),
                .lda = mlp.inputs,
                .b = mlp.w1().data(),
                .ldb = mlp.inputs,
                .transpose_b = true,
                .c = before_.data(),
                .ldc = mlp.inner,
                .beta = 1.0f});
  backend_.activation({.kind = ActivationKind::kGeluErf,
                       .x = view(before_, rows, mlp.inner),
                       .y = view(active_, rows, mlp.inner)});
  scores_.assign(static_cast<std::size_t>(rows), mlp.b2());
  ops_.product({.m = rows,
                .n = 1,
                .k = mlp.inner,
                .a = active_.data(),
                .lda = mlp.inner,
                .b = mlp.w2().data(),
                .ldb = 1,
                .c = scores_.data(),
                .ldc = 1,
                .beta = 1.0f});
  return scores_;
}

void MlpPass::backward(const Mlp& mlp, std::span<const float> x, std::span<const float> dscores,
                       std::span<float> gradient) {
  const std::int64_t rows = std::ssize(dscores), inner = mlp.inner;
  check(std::ssize(before_) == rows * inner && gradient.size() == mlp.parameters.size(),
        "mlp: backward follows forward");
  dactive_.resize(before_.size());
  dbefore_.resize(before_.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < inner; ++i) dactive_[row * inner + i] = dscores[row] * mlp.w2()[i];
  }
  ops_.activation_backward({.kind = ActivationKind::kGeluErf,
                            .x = view(before_, rows, inner),
                            .dy = view(dactive_, rows, inner),
                            .dx = view(dbefore_, rows, inner)});
  float *dw1 = gradient.data(), *db1 = dw1 + inner * mlp.inputs, *dw2 = db1 + inner;
  ops_.product({.m = inner,
                .n = mlp.inputs,
                .k = rows,
                .a = dbefore_.data(),
                .lda = inner,
                .transpose_a = true,
                .b = x.data(),
                .ldb = mlp.inputs,
                .c = dw1,
                .ldc = mlp.inputs,
                .beta = 1.0f});
  ops_.product({.m = inner,
                .n = 1,
                .k = rows,
                .a = active_.data(),
                .lda = inner,
                .transpose_a = true,
                .b = dscores.data(),
                .ldb = 1,
                .c = dw2,
                .ldc = 1,
                .beta = 1.0f});
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < inner; ++i) db1[i] += dbefore_[row * inner + i];
    gradient.back() += dscores[row];
  }
}

}  // namespace winnow
