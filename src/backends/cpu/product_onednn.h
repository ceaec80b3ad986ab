// Single products of float32 matrices that are not worth packing. Called by the training ops.
#pragma once

#include "backends/train_ops.h"

namespace winnow::cpu {

// On oneDNN's threads; on the calling thread alone inside a parallel region.
void product_f32(const ProductParams& params);

}  // namespace winnow::cpu
