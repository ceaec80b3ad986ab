// GatedLinear: the first product of a feed-forward layer with its gated activation, bf16.
//
// By one kernel that keeps the product out of memory (gated_linear_hopper.h), or by cuBLASLt and the kernel
// of the activation: what is faster is measured once for each shape and kept in the file of choices, as the
// algorithms of products are (matmul.h).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "backends/cuda/choice_file.h"
#include "backends/cuda/device.h"
#include "backends/cuda/gated_linear_hopper.h"
#include "backends/cuda/matmul.h"

namespace winnow::cuda {

class GatedLinear {
 public:
  // `stored`: what the file of choices says; must outlive this.
  GatedLinear(Device& device, Matmul& matmul, const StoredChoices& stored);
  // product [rows, 2 * dim]: working memory.
  void run(const GatedLinearArgs& args, void* product);

 private:
  using Plan = std::optional<int>;  // the kernel's group; none: two operations
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, Activation>;  // rows, in, dim

  void issue(const GatedLinearArgs& args, const Plan& plan, void* product);
  Plan choose(const GatedLinearArgs& args, void* product);
  std::string key_text(const Key& key) const;

  Device& device_;
  Matmul& matmul_;
  std::map<Key, Plan> choices_;
  const StoredChoices& stored_;
};

}  // namespace winnow::cuda
