// Matrix products by oneDNN: y = x W^T, with a bias, added to y. A primitive is made (and compiled) for each
// shape once, about a millisecond each, and kept; our threads run them side by side. Called by the GEMMs of
// this folder, which know what weights and rows are.
#pragma once

#include <cstdint>
#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <vector>

#include "core/buffer.h"

namespace winnow::cpu {

struct ProductShape {
  std::int64_t rows, in_features, out_features;
  dnnl::memory::data_type x, y;  // weights are of x's
  int threads = 1;               // of oneDNN's that a product runs on
  bool accumulate = false, bias = false;
  auto operator<=>(const ProductShape&) const = default;
};

struct ProductData {
  void* x;                      // [rows, in_features]
  const dnnl::memory& weights;  // in one layout for every shape of the same features
  void* y;                      // [rows, out_features]
  const float* bias = nullptr;  // [out_features], where the shape has one
};

class OnednnProducts {
 public:
  explicit OnednnProducts(int threads);  // ours, each with a stream and a scratchpad of its own

  const dnnl::engine& engine() const { return engine_; }
  // Memory for weights in the layout that oneDNN prefers for this shape.
  dnnl::memory weights_for(const ProductShape& shape) const;
  void reorder(dnnl::memory& from, dnnl::memory& to);
  // By the given thread of ours.
  void run(const ProductShape& shape, const ProductData& data, int thread);

 private:
  struct Product {
    dnnl::matmul::primitive_desc desc;
    dnnl::matmul primitive;
  };
  dnnl::matmul::primitive_desc describe(const ProductShape& shape, const dnnl::memory::desc& weights) const;
  const Product& product(const ProductShape& shape, const dnnl::memory::desc& weights);

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  std::mutex mutex_;  // guards `products_`
  std::map<ProductShape, Product> products_;
  std::vector<dnnl::stream> streams_;  // one a thread
  std::vector<Buffer> scratchpads_;    // one a thread, grown to the largest product seen
};

}  // namespace winnow::cpu
