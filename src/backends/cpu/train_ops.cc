// The training ops on rows: splits them over threads and calls the kernels.
#include "backends/train_ops.h"

#include <omp.h>

#include "backends/cpu/parallel.h"
#include "backends/cpu/product_onednn.h"
#include "backends/cpu/train_rows.h"
#include "core/check.h"

namespace winnow {
namespace {

void check_f32(const MatrixView& view) { check(view.dtype == DType::kF32, "training ops are float32"); }

bool same_shape(const MatrixView& a, const MatrixView& b) { return a.rows == b.rows && a.cols == b.cols; }

}  // namespace

TrainOps::TrainOps(int threads)
    : threads_(cpu::deliverable_threads(threads == 0 ? omp_get_max_threads() : threads)) {}

void TrainOps::norm_backward(const NormBackwardParams& p) const {
  for (const MatrixView& view : {p.x, p.dy, p.dx}) check_f32(view);
  check(same_shape(p.x, p.dy) && same_shape(p.x, p.dx), "norm_backward: three matrices of one shape");
  cpu::parallel_rows(threads_, p.x.rows,
                     [&](std::int64_t begin, std::int64_t end) { cpu::norm_backward_rows(p, begin, end); });
}

void TrainOps::activation_backward(const ActivationBackwardParams& p) const {
  for (const MatrixView& view : {p.x, p.dy, p.dx}) check_f32(view);
  check(same_shape(p.x, p.dx) && p.x.rows == p.dy.rows && p.x.cols == (is_gated(p.kind) ? 2 : 1) * p.dy.cols,
        "activation_backward: x is [rows, dim], or [rows, 2 dim] when gated");
  cpu::parallel_rows(threads_, p.x.rows, [&](std::int64_t begin, std::int64_t end) {
    cpu::activation_backward_rows(p, begin, end);
  });
}

void TrainOps::rope(const RopeParams& p) const {
  check(same_shape(p.x, p.y) && p.x.cols == p.sizes.qkv_dim(), "rope: a row is q | k | v");
  check(p.rope->rotary_dim == 0 || p.x.rows <= p.rope->positions, "rope: known positions");
  cpu::parallel_rows(threads_, p.x.rows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) cpu::rotate_row(p, row);
  });
}

void TrainOps::rope_backward(const RopeBackwardParams& p) const {
  check(same_shape(p.forward.x, p.gradient) && p.gradient.cols == p.forward.sizes.qkv_dim(),
        "rope_backward: a row is q | k | v");
  cpu::parallel_rows(threads_, p.gradient.rows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) cpu::rotate_row_backward(p, row);
  });
}

void TrainOps::loss(const LossParams& p) const {
  const std::int64_t rows = p.logits.rows;
  check(std::ssize(p.weights) == rows && std::ssize(p.losses) == rows && std::ssize(p.targets) == rows,
        "loss: a number a row");
  check(p.teacher == nullptr || same_shape(*p.teacher, p.logits),
        "loss: the teacher's logits have the same shape");
  cpu::parallel_rows(threads_, rows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* teacher = p.teacher == nullptr ? nullptr : p.teacher->row<float>(row);
      p.losses[row] =
          cpu::loss_row(p.logits.row<float>(row), teacher, p.targets[row], p.weights[row], p.logits.cols);
    }
  });
}

void TrainOps::product(const ProductParams& p) const { cpu::product_f32(p); }

}  // namespace winnow
