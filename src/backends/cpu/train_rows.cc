#include "backends/cpu/train_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/train_rows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After highway.h, which defines the target.
#include "backends/cpu/activation-inl.h"
#include "backends/cpu/bf16-inl.h"
#include "backends/cpu/exp-inl.h"
#include "backends/cpu/reduce-inl.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu::HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;

// Folds step(i, lanes, sum) over the vectors of [0, n); what lies past the end has to come out as the sum's
// old lanes or zeros.
template <class Step>
HWY_INLINE float sum_over(std::int64_t n, Step step) {
  const Tag d;
  Vec sum = hn::Zero(d);
  for_each_vector(d, n, [&](std::int64_t i, auto lanes) HWY_ATTR { sum = step(i, lanes, sum); });
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// --- norms
// ----------------------------------------------------------------------------------------------------------
//
// y = xhat w with xhat = (x - centre) r. With g = dy w:
//   RMS:   dx = r (g - xhat mean(g xhat))
//   Layer: dx = r (g - mean(g) - xhat mean(g xhat))

struct Normed {
  float centre, scale;
};

Normed statistics(const NormBackwardParams& p, const float* x) {
  const auto n = static_cast<float>(p.x.cols);
  const Tag d;
  float centre = 0;
  if (p.kind == NormKind::kLayer) {
    centre = sum_over(p.x.cols, [&](std::int64_t i, auto lanes, Vec sum)
                                    HWY_ATTR { return hn::Add(sum, load(d, x + i, lanes)); }) /
             n;
  }
  double squares = 0;
  for (std::int64_t i = 0; i < p.x.cols; ++i)
    squares += static_cast<double>(x[i] - centre) * static_cast<double>(x[i] - centre);
  return {centre, 1.0f / std::sqrt(static_cast<float>(squares) / n + p.epsilon)};
}

void norm_backward_row(const NormBackwardParams& p, const float* x, const float* dy, float* dx) {
  const Tag d;
  const auto n = static_cast<float>(p.x.cols);
  const Normed normed = statistics(p, x);
  const Vec centre = hn::Set(d, normed.centre), scale = hn::Set(d, normed.scale);
  // Past the end x is 0 and xhat is not, but g is 0 there.
  const float along =
      sum_over(p.x.cols,
               [&](std::int64_t i, auto lanes, Vec sum) HWY_ATTR {
                 const Vec g = hn::Mul(load(d, dy + i, lanes), load(d, p.weight + i, lanes));
                 return hn::MulAdd(g, hn::Mul(hn::Sub(load(d, x + i, lanes), centre), scale), sum);
               }) /
      n;
  float mean = 0;
  if (p.kind == NormKind::kLayer) {
    mean = sum_over(p.x.cols,
                    [&](std::int64_t i, auto lanes, Vec sum) HWY_ATTR {
                      return hn::MulAdd(load(d, dy + i, lanes), load(d, p.weight + i, lanes), sum);
                    }) /
           n;
  }
  const Vec valong = hn::Set(d, along), vmean = hn::Set(d, mean);
  for_each_vector(d, p.x.cols, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec g = hn::Mul(load(d, dy + i, lanes), load(d, p.weight + i, lanes));
    const Vec xhat = hn::Mul(hn::Sub(load(d, x + i, lanes), centre), scale);
    const Vec gradient = hn::Mul(scale, hn::NegMulAdd(xhat, valong, hn::Sub(g, vmean)));
    store(p.accumulate ? hn::Add(gradient, load(d, dx + i, lanes)) : gradient, d, dx + i, lanes);
  });
}

void norm_backward_all(const NormBackwardParams& p, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r)
    norm_backward_row(p, p.x.row<float>(r), p.dy.row<float>(r), p.dx.row<float>(r));
}

// --- activations
// ----------------------------------------------------------------------------------------------------

template <class Function>
HWY_INLINE void plain_row(Function function, const float* x, const float* dy, float* dx, std::int64_t dim) {
  const Tag d;
  for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
    store(hn::Mul(load(d, dy + i, lanes), function(d, load(d, x + i, lanes)).slope), d, dx + i, lanes);
  });
}

template <class Function>
HWY_INLINE void gated_row(Function function, const float* x, const float* dy, float* dx, std::int64_t dim) {
  const Tag d;
  for_each_vector(d, dim, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec up = load(d, x + dim + i, lanes), gradient = load(d, dy + i, lanes);
    const ValueAndSlope gate = function(d, load(d, x + i, lanes));
    store(hn::Mul(hn::Mul(gradient, up), gate.slope), d, dx + i, lanes);
    store(hn::Mul(gradient, gate.value), d, dx + dim + i, lanes);
  });
}

void activation_backward_all(const ActivationBackwardParams& p, std::int64_t begin, std::int64_t end) {
  const auto silu_of = [](Tag d, Vec x) HWY_ATTR { return silu(d, x); };
  const auto tanh_of = [](Tag d, Vec x) HWY_ATTR { return gelu_tanh(d, x); };
  const auto erf_of = [](Tag d, Vec x) HWY_ATTR { return gelu_erf(d, x); };
  for (std::int64_t r = begin; r < end; ++r) {
    const float *x = p.x.row<float>(r), *dy = p.dy.row<float>(r);
    float* dx = p.dx.row<float>(r);
    switch (p.kind) {
      case ActivationKind::kSiluGated: gated_row(silu_of, x, dy, dx, p.dy.cols); break;
      case ActivationKind::kGeluTanhGated: gated_row(tanh_of, x, dy, dx, p.dy.cols); break;
      case ActivationKind::kGeluTanh: plain_row(tanh_of, x, dy, dx, p.dy.cols); break;
      case ActivationKind::kGeluErf: plain_row(erf_of, x, dy, dx, p.dy.cols); break;
    }
  }
}

// --- attention
// ------------------------------------------------------------------------------------------------------

// Scores of keys that do not count are no part of the maximum: those that do must not vanish beside them.
float largest_score(const float* scores, const float* keep, std::int64_t begin, std::int64_t own) {
  const Tag d;
  const Vec lowest = hn::Set(d, -INFINITY);
  Vec largest = hn::Set(d, scores[own]);
  const std::int64_t n = own - begin;
  for_each_vector(d, n, [&](std::int64_t i, auto lanes) HWY_ATTR {
    Vec s = load(d, scores + begin + i, lanes);
    if (keep != nullptr) s = hn::IfThenElse(hn::Gt(load(d, keep + begin + i, lanes), hn::Zero(d)), s, lowest);
    if constexpr (std::is_same_v<decltype(lanes), FirstLanes>)
      s = hn::IfThenElse(hn::FirstN(d, lanes.count), s, lowest);
    largest = hn::Max(largest, s);
  });
  return hn::GetLane(hn::MaxOfLanes(d, largest));
}

float masked_softmax_row(float* scores, const float* keep, std::int64_t begin, std::int64_t own) {
  const Tag d;
  const float largest = largest_score(scores, keep, begin, own);
  const Vec shift = hn::Set(d, largest);
  const std::int64_t n = own - begin;
  float* s = scores + begin;
  float sum = sum_over(n, [&](std::int64_t i, auto lanes, Vec total) HWY_ATTR {
    Vec p = exp(d, hn::Sub(load(d, s + i, lanes), shift));
    if (keep != nullptr) p = hn::Mul(p, load(d, keep + begin + i, lanes));
    store(p, d, s + i, lanes);
    return hn::Add(total, load(d, s + i, lanes));
  });
  scores[own] = std::exp(scores[own] - largest);
  sum += scores[own];
  const Vec factor = hn::Set(d, 1.0f / sum);
  for_each_vector(d, n + 1, [&](std::int64_t i, auto lanes) HWY_ATTR {
    store(hn::Mul(load(d, s + i, lanes), factor), d, s + i, lanes);
  });
  return largest + std::log(sum);
}

void softmax_backward_row(const SoftmaxBackwardRow& row, std::int64_t begin, std::int64_t own) {
  const Tag d;
  const Vec shift = hn::Set(d, row.log_sum), delta = hn::Set(d, row.delta);
  for_each_vector(d, own - begin, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const std::int64_t j = begin + i;
    const Vec share = exp(d, hn::Sub(load(d, row.scores + j, lanes), shift));
    const Vec difference = hn::Sub(load(d, row.dprobs + j, lanes), delta);
    const Vec p = row.keep != nullptr ? hn::Mul(share, load(d, row.keep + j, lanes)) : share;
    if (row.dkeep != nullptr)
      store(hn::MulAdd(share, difference, load(d, row.dkeep + j, lanes)), d, row.dkeep + j, lanes);
    store(p, d, row.probs + j, lanes);
    store(hn::Mul(p, difference), d, row.dprobs + j, lanes);
  });
  row.probs[own] = std::exp(row.scores[own] - row.log_sum);
  row.dprobs[own] = row.probs[own] * (row.dprobs[own] - row.delta);
}

// --- loss
// -----------------------------------------------------------------------------------------------------------

float largest_of(const float* x, std::int64_t n) {
  const Tag d;
  Vec largest = hn::Set(d, x[0]);
  for_each_vector(d, n, [&](std::int64_t i, auto lanes) HWY_ATTR {
    Vec v = load(d, x + i, lanes);
    if constexpr (std::is_same_v<decltype(lanes), FirstLanes>)
      v = hn::IfThenElse(hn::FirstN(d, lanes.count), v, hn::Set(d, x[0]));
    largest = hn::Max(largest, v);
  });
  return hn::GetLane(hn::MaxOfLanes(d, largest));
}

// ln sum exp(x)
float log_sum_exp(const float* x, std::int64_t n) {
  const Tag d;
  const float largest = largest_of(x, n);
  const Vec shift = hn::Set(d, largest);
  const float sum = sum_over(n, [&](std::int64_t i, auto lanes, Vec total) HWY_ATTR {
    Vec p = exp(d, hn::Sub(load(d, x + i, lanes), shift));
    if constexpr (std::is_same_v<decltype(lanes), FirstLanes>)
      p = hn::IfThenElseZero(hn::FirstN(d, lanes.count), p);
    return hn::Add(total, p);
  });
  return largest + std::log(sum);
}

float loss_of_row(float* logits, const float* teacher, std::int64_t target, float weight,
                  std::int64_t vocab) {
  const Tag d;
  const float log_sum = log_sum_exp(logits, vocab);
  const Vec shift = hn::Set(d, log_sum), factor = hn::Set(d, weight);
  if (teacher == nullptr) {
    const float loss = log_sum - logits[target];
    for_each_vector(d, vocab, [&](std::int64_t i, auto lanes) HWY_ATTR {
      store(hn::Mul(factor, exp(d, hn::Sub(load(d, logits + i, lanes), shift))), d, logits + i, lanes);
    });
    logits[target] -= weight;
    return loss;
  }
  const Vec teacher_shift = hn::Set(d, log_sum_exp(teacher, vocab));
  return sum_over(vocab, [&](std::int64_t i, auto lanes, Vec total) HWY_ATTR {
    const Vec log_q = hn::Sub(load(d, logits + i, lanes), shift),
              log_p = hn::Sub(load(d, teacher + i, lanes), teacher_shift);
    const Vec p = exp(d, log_p);
    store(hn::Mul(factor, hn::Sub(exp(d, log_q), p)), d, logits + i, lanes);
    Vec term = hn::Mul(p, hn::Sub(log_p, log_q));
    if constexpr (std::is_same_v<decltype(lanes), FirstLanes>)
      term = hn::IfThenElseZero(hn::FirstN(d, lanes.count), term);
    return hn::Add(total, term);
  });
}

// --- rotary embedding
// -----------------------------------------------------------------------------------------------

constexpr std::int64_t kMaxHeadDim = 1024;

void rotate(const RopeTable& rope, std::int64_t position, const float* x, std::int64_t dim, float* y,
            bool back) {
  const std::int64_t half = rope.rotary_dim / 2;
  const Tag d;
  for_each_vector(d, half, [&](std::int64_t i, auto lanes) HWY_ATTR {
    const Vec cos = load(d, rope.cos.as<float>() + position * half + i, lanes);
    Vec sin = load(d, rope.sin.as<float>() + position * half + i, lanes);
    if (back) sin = hn::Neg(sin);
    const Vec first = load(d, x + i, lanes), second = load(d, x + half + i, lanes);
    store(hn::NegMulAdd(second, sin, hn::Mul(first, cos)), d, y + i, lanes);
    store(hn::MulAdd(first, sin, hn::Mul(second, cos)), d, y + half + i, lanes);
  });
  if (x != y) std::copy(x + 2 * half, x + dim, y + 2 * half);
}

void rotate_forward(const RopeParams& p, std::int64_t row) {
  const std::int64_t dim = p.sizes.head_dim, end_of_q = p.sizes.q_dim(),
                     end_of_k = end_of_q + p.sizes.kv_dim();
  const float* x = p.x.row<float>(row);
  float* y = p.y.row<float>(row);
  HWY_ALIGN float normed[kMaxHeadDim];
  for (std::int64_t begin = 0; begin < end_of_k; begin += dim) {
    const float* head = x + begin;
    if (p.q_norm != nullptr) {
      const float* weight = begin < end_of_q ? p.q_norm : p.k_norm;
      const float scale =
          1.0f / std::sqrt(sum_of_squares(head, dim) / static_cast<float>(dim) + p.norm_epsilon);
      for (std::int64_t i = 0; i < dim; ++i) normed[i] = head[i] * scale * weight[i];
      head = normed;
    }
    rotate(*p.rope, row, head, dim, y + begin, false);
  }
  if (x != y) std::copy(x + end_of_k, x + p.sizes.qkv_dim(), y + end_of_k);
}

void rotate_backward(const RopeBackwardParams& backward, std::int64_t row) {
  const RopeParams& p = backward.forward;
  const std::int64_t dim = p.sizes.head_dim, end_of_q = p.sizes.q_dim(),
                     end_of_k = end_of_q + p.sizes.kv_dim();
  float* gradient = backward.gradient.row<float>(row);
  for (std::int64_t begin = 0; begin < end_of_k; begin += dim) {
    float* head = gradient + begin;
    HWY_ALIGN float rotated[kMaxHeadDim];
    rotate(*p.rope, row, head, dim, rotated, true);
    std::copy(rotated, rotated + dim, head);
    if (p.q_norm == nullptr) continue;
    float* x = const_cast<float*>(p.x.row<float>(row)) + begin;
    const MatrixView x_view{x, DType::kF32, 1, dim}, dy{rotated, DType::kF32, 1, dim},
        dx{head, DType::kF32, 1, dim};
    norm_backward_row({.kind = NormKind::kRms,
                       .x = x_view,
                       .dy = dy,
                       .dx = dx,
                       .weight = begin < end_of_q ? p.q_norm : p.k_norm,
                       .epsilon = p.norm_epsilon},
                      x, rotated, head);
  }
}

}  // namespace
}  // namespace winnow::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(norm_backward_all);
HWY_EXPORT(activation_backward_all);
HWY_EXPORT(masked_softmax_row);
HWY_EXPORT(softmax_backward_row);
HWY_EXPORT(loss_of_row);
HWY_EXPORT(rotate_forward);
HWY_EXPORT(rotate_backward);

void norm_backward_rows(const NormBackwardParams& params, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(norm_backward_all)(params, begin, end);
}
void activation_backward_rows(const ActivationBackwardParams& params, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(activation_backward_all)(params, begin, end);
}
float masked_softmax(float* scores, const float* keep, std::int64_t begin, std::int64_t own) {
  return HWY_DYNAMIC_DISPATCH(masked_softmax_row)(scores, keep, begin, own);
}
void softmax_backward(const SoftmaxBackwardRow& row, std::int64_t begin, std::int64_t own) {
  HWY_DYNAMIC_DISPATCH(softmax_backward_row)(row, begin, own);
}
float loss_row(float* logits, const float* teacher, std::int64_t target, float weight, std::int64_t vocab) {
  return HWY_DYNAMIC_DISPATCH(loss_of_row)(logits, teacher, target, weight, vocab);
}
void rotate_row(const RopeParams& params, std::int64_t row) {
  HWY_DYNAMIC_DISPATCH(rotate_forward)(params, row);
}
void rotate_row_backward(const RopeBackwardParams& params, std::int64_t row) {
  HWY_DYNAMIC_DISPATCH(rotate_backward)(params, row);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
