#include "backends/cpu/onednn_products.h"

#include <unordered_map>

#include "backends/cpu/onednn_threads.h"

namespace winnow::cpu {

using dnnl::memory;

OnednnProducts::OnednnProducts(int threads) : scratchpads_(static_cast<std::size_t>(threads)) {
  for (int t = 0; t < threads; ++t) streams_.emplace_back(engine_);
}

memory OnednnProducts::weights_for(const ProductShape& shape) const {
  const memory::desc any({shape.in_features, shape.out_features}, shape.x, memory::format_tag::any);
  return {describe(shape, any).weights_desc(), engine_};
}

void OnednnProducts::reorder(memory& from, memory& to) {
  dnnl::reorder(from, to).execute(streams_[0], from, to);
  streams_[0].wait();
}

void OnednnProducts::run(const ProductShape& shape, const ProductData& data, int thread) {
  const Product& product = this->product(shape, data.weights.get_desc());
  Buffer& scratchpad = scratchpads_[thread];
  const auto bytes = static_cast<std::int64_t>(product.desc.scratchpad_desc().get_size());
  if (scratchpad.bytes() < bytes) scratchpad = Buffer::host(bytes);
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, memory(product.desc.src_desc(), engine_, data.x)},
      {DNNL_ARG_WEIGHTS, data.weights},
      {DNNL_ARG_DST, memory(product.desc.dst_desc(), engine_, data.y)},
      {DNNL_ARG_SCRATCHPAD, memory(product.desc.scratchpad_desc(), engine_, scratchpad.as<>())}};
  if (shape.bias) {
    arguments.emplace(DNNL_ARG_BIAS,
                      memory(product.desc.bias_desc(), engine_, const_cast<float*>(data.bias)));
  }
  product.primitive.execute(streams_[thread], arguments);
  streams_[thread].wait();
}

dnnl::matmul::primitive_desc OnednnProducts::describe(const ProductShape& shape,
                                                      const memory::desc& weights) const {
  const ThreadsForNewPrimitives scope(shape.threads);
  const memory::desc x({shape.rows, shape.in_features}, shape.x, memory::format_tag::ab);
  const memory::desc y({shape.rows, shape.out_features}, shape.y, memory::format_tag::ab);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (shape.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  if (!shape.bias) return {dnnl::matmul::desc(x, weights, y), attributes, engine_};
  const memory::desc bias({1, shape.out_features}, memory::data_type::f32, memory::format_tag::ab);
  return {dnnl::matmul::desc(x, weights, bias, y), attributes, engine_};
}

const OnednnProducts::Product& OnednnProducts::product(const ProductShape& shape,
                                                       const memory::desc& weights) {
  const std::lock_guard lock(mutex_);
  auto found = products_.find(shape);
  if (found == products_.end()) {
    const auto desc = describe(shape, weights);
    const ThreadsForNewPrimitives scope(shape.threads);
    found = products_.emplace(shape, Product{desc, dnnl::matmul(desc)}).first;
  }
  return found->second;
}

}  // namespace winnow::cpu
