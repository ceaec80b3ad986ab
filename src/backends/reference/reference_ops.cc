#include "backends/reference/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "backends/reference/elements.h"
#include "core/check.h"

namespace winnow::reference {
namespace {

double mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double mean_square(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value * value;
  return sum / static_cast<double>(values.size());
}

double silu(double x) { return x / (1.0 + std::exp(-x)); }

double gelu_tanh(double x) {
  const double inner = std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1.0 + std::tanh(inner));
}

double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }

void check_same_shape(const MatrixView& x, const MatrixView& y) {
  check_dtype(x);
  check_dtype(y);
  check(x.rows == y.rows && x.cols == y.cols, "the two matrices have the same shape");
}

}  // namespace

void norm(const NormParams& params) {
  check_same_shape(params.x, params.y);
  check(!params.accumulate || params.y.dtype == DType::kF32, "norm: only float32 accumulates");
  for (std::int64_t r = 0; r < params.x.rows; ++r) {
    std::vector<double> values = get_row(params.x, r);
    if (params.kind == NormKind::kLayer) {
      const double center = mean(values);
      for (double& value : values) value -= center;
    }
    const double scale = 1.0 / std::sqrt(mean_square(values) + static_cast<double>(params.epsilon));
    for (std::int64_t c = 0; c < params.x.cols; ++c) {
      values[c] *= scale * params.weight[c];
      if (params.bias != nullptr) values[c] += params.bias[c];
    }
    for (std::int64_t c = 0; params.accumulate && c < params.y.cols; ++c)
      values[c] += params.y.row<float>(r)[c];
    set_row(params.y, r, values);
  }
}

void norm_heads(const RopeAppendParams& params, std::vector<double>& row) {
  if (params.q_norm == nullptr) return;
  const std::int64_t dim = params.kv->head_dim;
  for (std::int64_t begin = 0; begin < params.q.cols + params.kv->kv_heads * dim; begin += dim) {
    const float* weight = begin < params.q.cols ? params.q_norm : params.k_norm;
    const std::vector<double> head(row.begin() + begin, row.begin() + begin + dim);
    const double scale = 1.0 / std::sqrt(mean_square(head) + static_cast<double>(params.norm_epsilon));
    for (std::int64_t i = 0; i < dim; ++i) row[begin + i] = head[i] * scale * weight[i];
  }
}

void linear(const LinearParams& params, const MatrixView& weight) {
  check_dtype(params.x);
  check_dtype(params.y);
  check(params.x.cols == weight.cols, "linear: x has in_features columns");
  check(params.y.rows == params.x.rows && params.y.cols == weight.rows, "linear: y is [rows, out_features]");
  check(!params.accumulate || params.y.dtype == DType::kF32, "linear: only float32 accumulates");
  std::vector<std::vector<double>> x;
  for (std::int64_t r = 0; r < params.x.rows; ++r) x.push_back(get_row(params.x, r));
  for (std::int64_t o = 0; o < weight.rows; ++o) {
    const std::vector<double> w = get_row(weight, o);
    for (std::int64_t r = 0; r < params.x.rows; ++r) {
      double sum = params.bias != nullptr ? params.bias[o] : 0.0;
      for (std::int64_t i = 0; i < weight.cols; ++i) sum += x[r][i] * w[i];
      if (params.accumulate) sum += params.y.row<float>(r)[o];
      set_element(params.y.row<void>(r), params.y.dtype, o, sum);
    }
  }
}

void activation(const ActivationParams& params) {
  check_dtype(params.x);
  check_dtype(params.y);
  const std::int64_t dim = params.y.cols;
  const bool gated = is_gated(params.kind);
  check(params.x.rows == params.y.rows && params.x.cols == (gated ? 2 * dim : dim),
        "activation: x is [rows, dim], or [rows, 2 dim] when gated");
  for (std::int64_t r = 0; r < params.x.rows; ++r) {
    std::vector<double> values = get_row(params.x, r);
    for (std::int64_t c = 0; c < dim; ++c) {
      switch (params.kind) {
        case ActivationKind::kSiluGated: values[c] = silu(values[c]) * values[dim + c]; break;
        case ActivationKind::kGeluTanh: values[c] = gelu_tanh(values[c]); break;
        case ActivationKind::kGeluErf: values[c] = gelu_erf(values[c]); break;
        case ActivationKind::kGeluTanhGated: values[c] = gelu_tanh(values[c]) * values[dim + c]; break;
      }
    }
    set_row(params.y, r, values);
  }
}

void convert(const MatrixView& x, const MatrixView& y) {
  check_same_shape(x, y);
  for (std::int64_t r = 0; r < x.rows; ++r) set_row(y, r, get_row(x, r));
}

void row_norms(const MatrixView& x, std::span<float> norms) {
  check_dtype(x);
  check(static_cast<std::int64_t>(norms.size()) == x.rows, "row_norms: one norm for every row");
  for (std::int64_t r = 0; r < x.rows; ++r) {
    double sum = 0.0;
    for (const double value : get_row(x, r)) sum += value * value;
    norms[r] = static_cast<float>(std::sqrt(sum));
  }
}

void keep_rows(const MatrixView& x, std::span<const std::int64_t> rows) {
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(rows.size()); ++i) {
    check(rows[i] >= 0 && rows[i] < x.rows, "keep_rows: a row of x");
    check(i == 0 || rows[i - 1] < rows[i], "keep_rows: rows ascend strictly");
    std::memmove(x.row<std::byte>(i), x.row<std::byte>(rows[i]), static_cast<std::size_t>(x.row_bytes()));
  }
}

}  // namespace winnow::reference
