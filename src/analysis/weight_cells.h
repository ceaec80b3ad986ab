// WeightCells: attention weights summed up in cells of a few keys, row by row. Coarser cells are made of
// finer ones, so one pass over the weights serves every block shape and threshold.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace winnow {

// Below this a probability counts as this in the KL divergence of rows, which would otherwise be infinite as
// soon as anything is excluded.
constexpr double kClamp = 1e-12;

struct WeightCells {
  std::int64_t width = 0;  // keys in a cell; the last may have fewer
  std::int64_t rows = 0, cells = 0;
  std::vector<float> max, mass, loss;  // [rows, cells]

  void resize(std::int64_t new_rows, std::int64_t new_cells);
};

// What excluding a weight p adds to KL(row || what is left): p' (ln p' - ln 1e-12), p' = max(p, 1e-12).
// Within 1e-6 of its own size.
float exclusion_loss(float weight);

// `weights` [rows, stride] float32, of which the first `keys` columns count, into cells of `width`.
void sum_cells(const float* weights, std::int64_t rows, std::int64_t stride, std::int64_t keys,
               std::int64_t width, WeightCells& cells);

// Cells of `width`, a multiple of the finer ones'.
void sum_cells(const WeightCells& finer, std::int64_t width, WeightCells& cells);

}  // namespace winnow
