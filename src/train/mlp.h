// Mlp: score = w2 gelu(W1 x + b1) + b2, with its gradients and Adam. One scorer in training.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/train_ops.h"

namespace winnow {

struct Mlp {
  std::int64_t inputs = 0, inner = 0;
  std::vector<float> parameters;  // W1 [inner, inputs] | b1 [inner] | w2 [inner] | b2

  static std::int64_t parameter_count(std::int64_t inputs, std::int64_t inner) {
    return inner * inputs + 2 * inner + 1;
  }
  std::span<float> w1() { return span(0, inner * inputs); }
  std::span<float> b1() { return span(inner * inputs, inner); }
  std::span<float> w2() { return span(inner * inputs + inner, inner); }
  float& b2() { return parameters.back(); }
  std::span<const float> w1() const { return const_cast<Mlp*>(this)->w1(); }
  std::span<const float> b1() const { return const_cast<Mlp*>(this)->b1(); }
  std::span<const float> w2() const { return const_cast<Mlp*>(this)->w2(); }
  float b2() const { return parameters.back(); }

 private:
  std::span<float> span(std::int64_t begin, std::int64_t count) {
    return {parameters.data() + begin, static_cast<std::size_t>(count)};
  }
};

// Weights uniform in +-1/sqrt(fan-in), as PyTorch's Linear; the same for the same seed.
Mlp make_mlp(std::int64_t inputs, std::int64_t inner, std::uint64_t seed);

// Moving means of gradients and their squares (Kingma and Ba, arXiv 1412.6980), with decoupled weight decay
// (arXiv 1711.05101).
struct Adam {
  std::vector<float> mean, square;
  std::int64_t steps = 0;
  void step(std::span<float> parameters, std::span<const float> gradient, float rate, float decay);
};

// Forward and backward of one batch; keeps what the gradients need.
class MlpPass {
 public:
  // `backend` gives the activation, `ops` the products.
  MlpPass(Backend& backend, const TrainOps& ops) : backend_(backend), ops_(ops) {}

  // x [rows, inputs] -> scores [rows].
  std::span<const float> forward(const Mlp& mlp, std::span<const float> x);
  // gradient += d/d parameters, for the x of the last forward() and the gradient of the scores.
  void backward(const Mlp& mlp, std::span<const float> x, std::span<const float> dscores,
                std::span<float> gradient);

 private:
  Backend& backend_;
  const TrainOps& ops_;
  std::vector<float> before_, active_, scores_, dactive_, dbefore_;
};

}  // namespace winnow
