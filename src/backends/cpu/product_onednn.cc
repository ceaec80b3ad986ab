#include "backends/cpu/product_onednn.h"

#include <dnnl.hpp>

#include "core/check.h"

namespace winnow::cpu {

void product_f32(const ProductParams& p) {
  if (p.m == 0 || p.n == 0) return;
  const dnnl::status status = dnnl::sgemm(p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', p.m, p.n, p.k,
                                          p.alpha, p.a, p.lda, p.b, p.ldb, p.beta, p.c, p.ldc);
  check(status == dnnl::status::success, "product: sizes that fit");
}

}  // namespace winnow::cpu
