#include "runtime/dynamic_rope.h"

#include "model/rope.h"

namespace winnow {

DynamicRope::DynamicRope(const Architecture& arch, Backend& backend) : arch_(arch), backend_(backend) {
  const std::int64_t bytes = arch.context * arch.rotary_dim / 2 * 4;
  tables_.global = {backend.allocate(bytes), backend.allocate(bytes), arch.context, arch.rotary_dim};
}

void DynamicRope::prepare(std::int64_t first, std::int64_t tokens) {
  fill_rope_rows(backend_, tables_.global, first, tokens,
                 rope_frequencies(arch_.rope_theta, arch_.rotary_dim, arch_.rope_scaling, tokens),
                 arch_.rope_scaling.attention_factor);
}

}  // namespace winnow
