#include "analysis/weight_cells.h"

#include <algorithm>
#include <bit>

#include "core/check.h"

namespace winnow {
namespace {

// Natural logarithm of a positive normal number, within 2 ulp: Cephes' polynomial on [sqrt(1/2), sqrt(2)).
// Without branches and calls, so that compilers vectorise the loop around it; there is one for every weight.
inline float ln(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::int32_t exponent = static_cast<std::int32_t>(bits - 0x3f3504f3u) >> 23;
  const auto f = std::bit_cast<float>(bits - (static_cast<std::uint32_t>(exponent) << 23)) - 1.0f;
  float y = 7.0376836292e-2f;
  y = y * f - 1.1514610310e-1f;
  y = y * f + 1.1676998740e-1f;
  y = y * f - 1.2420140846e-1f;
  y = y * f + 1.4249322787e-1f;
  y = y * f - 1.6668057665e-1f;
  y = y * f + 2.0000714765e-1f;
  y = y * f - 2.4999993993e-1f;
  y = y * f + 3.3333331174e-1f;
  const float square = f * f;
  return static_cast<float>(exponent) * 0.69314718056f + (f + (y * f - 0.5f) * square);
}

inline float loss_of(float weight) {
  constexpr float kFloor = static_cast<float>(kClamp), kLnFloor = -27.631021f;
  const float p = weight > kFloor ? weight : kFloor;
  return p * (ln(p) - kLnFloor);
}

}  // namespace

void WeightCells::resize(std::int64_t new_rows, std::int64_t new_cells) {
  rows = new_rows;
  cells = new_cells;
  const auto size = static_cast<std::size_t>(rows * cells);
  for (std::vector<float>* values : {&max, &mass, &loss}) values->resize(size);
}

float exclusion_loss(float weight) { return loss_of(weight); }

void sum_cells(const float* weights, std::int64_t rows, std::int64_t stride, std::int64_t keys,
               std::int64_t width, WeightCells& cells) {
  cells.width = width;
  cells.resize(rows, (keys + width - 1) / width);
  std::vector<float> losses(static_cast<std::size_t>(keys));
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* p = weights + row * stride;
    for (std::int64_t key = 0; key < keys; ++key) losses[key] = loss_of(p[key]);
    for (std::int64_t cell = 0; cell < cells.cells; ++cell) {
      const std::int64_t begin = cell * width, end = std::min(begin + width, keys);
      float max = p[begin], mass = 0, loss = 0;
      for (std::int64_t key = begin; key < end; ++key) {
        max = p[key] > max ? p[key] : max;
        mass += p[key];
        loss += losses[key];
      }
      const std::int64_t at = row * cells.cells + cell;
      cells.max[at] = max;
      cells.mass[at] = mass;
      cells.loss[at] = loss;
    }
  }
}

void sum_cells(const WeightCells& finer, std::int64_t width, WeightCells& cells) {
  check(width % finer.width == 0, "coarse cells are made of whole finer ones");
  const std::int64_t step = width / finer.width;
  cells.width = width;
  cells.resize(finer.rows, (finer.cells + step - 1) / step);
  for (std::int64_t row = 0; row < finer.rows; ++row) {
    for (std::int64_t cell = 0; cell < cells.cells; ++cell) {
      const std::int64_t begin = row * finer.cells + cell * step;
      const std::int64_t end = std::min(begin + step, (row + 1) * finer.cells);
      float max = finer.max[begin], mass = 0, loss = 0;
      for (std::int64_t i = begin; i < end; ++i) {
        max = finer.max[i] > max ? finer.max[i] : max;
        mass += finer.mass[i];
        loss += finer.loss[i];
      }
      const std::int64_t at = row * cells.cells + cell;
      cells.max[at] = max;
      cells.mass[at] = mass;
      cells.loss[at] = loss;
    }
  }
}

}  // namespace winnow
