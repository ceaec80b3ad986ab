// Dense attention of any shape: one block of threads a query of a head. Logits and their softmax.
#include <cmath>

#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/numeric.cuh"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 128;     // and keys taken at a time
constexpr int kMaxHeadDim = 512;  // as Backend
constexpr int kDims = kMaxHeadDim / kThreads;

template <class T>
__global__ void __launch_bounds__(kThreads) plain_attention_kernel(PlainAttentionArgs args) {
  __shared__ float q[kMaxHeadDim], p[kThreads], shared[33];
  const std::int64_t query = blockIdx.x, head = blockIdx.y, dim = args.cache.head_dim;
  const std::int64_t kv_head = head / (args.heads / args.cache.kv_heads), stride = args.cache.kv_heads * dim;
  const T* q_row = static_cast<const T*>(args.q) + (query * args.heads + head) * dim;
  const T* keys = static_cast<const T*>(args.cache.k) + kv_head * dim;
  const T* values = static_cast<const T*>(args.cache.v) + kv_head * dim;
  for (std::int64_t d = threadIdx.x; d < dim; d += kThreads) q[d] = to_f32(q_row[d]);

  const std::int64_t end = args.query_rows[query] + 1;
  float highest = -INFINITY, total = 0.0f, out[kDims] = {};
  for (std::int64_t begin = args.first_rows != nullptr ? args.first_rows[query] : 0; begin < end;
       begin += kThreads) {
    __syncthreads();
    const std::int64_t row = begin + threadIdx.x;
    float logit = -INFINITY;
    if (row < end) {
      float sum = 0.0f;
      for (std::int64_t d = 0; d < dim; ++d) sum = fmaf(q[d], to_f32(keys[row * stride + d]), sum);
      logit = sum * args.scale;
    }
    const float new_highest = fmaxf(highest, block_max(logit, shared));
    const float factor = expf(highest - new_highest), share = expf(logit - new_highest);
    p[threadIdx.x] = share;
    total = total * factor + block_sum(share, shared);
    highest = new_highest;
    const int count = static_cast<int>(end - begin < kThreads ? end - begin : kThreads);
#pragma unroll
    for (int j = 0; j < kDims; ++j) {
      const std::int64_t d = threadIdx.x + j * kThreads;
      if (d >= dim) continue;
      out[j] *= factor;
      for (int k = 0; k < count; ++k) out[j] = fmaf(p[k], to_f32(values[(begin + k) * stride + d]), out[j]);
    }
  }
  T* to = static_cast<T*>(args.out) + (query * args.heads + head) * dim;
#pragma unroll
  for (int j = 0; j < kDims; ++j) {
    const std::int64_t d = threadIdx.x + j * kThreads;
    if (d < dim) to[d] = from_f32<T>(out[j] / total);
  }
}

__global__ void causal_softmax_kernel(float* logits, const std::int64_t* first_rows,
                                      const std::int64_t* query_rows, std::int64_t cols) {
  __shared__ float shared[33];
  float* row = logits + blockIdx.x * cols;
  const std::int64_t begin = first_rows[blockIdx.x], end = query_rows[blockIdx.x] + 1;
  float highest = -INFINITY;
  for (std::int64_t j = begin + threadIdx.x; j < end; j += blockDim.x) highest = fmaxf(highest, row[j]);
  highest = block_max(highest, shared);
  float sum = 0.0f;
  for (std::int64_t j = begin + threadIdx.x; j < end; j += blockDim.x) sum += row[j] = expf(row[j] - highest);
  const float factor = 1.0f / block_sum(sum, shared);
  for (std::int64_t j = threadIdx.x; j < cols; j += blockDim.x) {
    row[j] = j >= begin && j < end ? row[j] * factor : 0.0f;
  }
}

template <class T>
__global__ void logits_kernel(LogitsArgs args) {
  const std::int64_t row = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (row >= args.rows) return;
  const std::int64_t dim = args.cache.head_dim, query = blockIdx.y, head = blockIdx.z;
  const T* q = static_cast<const T*>(args.q) + query * args.q_stride + (args.head + head) * dim;
  const T* k = static_cast<const T*>(args.cache.k) + (row * args.cache.kv_heads + args.kv_head) * dim;
  float sum = 0.0f;
  for (std::int64_t d = 0; d < dim; ++d) sum = fmaf(to_f32(q[d]), to_f32(k[d]), sum);
  args.logits[(head * args.queries + query) * args.logits_stride + row] = sum * args.scale;
}

}  // namespace

void launch_plain_attention(const PlainAttentionArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(args.heads));
  if (args.bf16) {
    plain_attention_kernel<bf16><<<grid, kThreads, 0, stream>>>(args);
  } else {
    plain_attention_kernel<float><<<grid, kThreads, 0, stream>>>(args);
  }
  check_launch("attention");
}

void launch_causal_softmax(float* logits, const std::int64_t* first_rows, const std::int64_t* query_rows,
                           std::int64_t rows, std::int64_t cols, cudaStream_t stream) {
  if (rows == 0) return;
  causal_softmax_kernel<<<static_cast<unsigned>(rows), 256, 0, stream>>>(logits, first_rows, query_rows,
                                                                         cols);
  check_launch("softmax");
}

void launch_logits(const LogitsArgs& args, cudaStream_t stream) {
  if (args.queries == 0 || args.rows == 0) return;
  const dim3 grid(static_cast<unsigned>((args.rows + kThreads - 1) / kThreads),
                  static_cast<unsigned>(args.queries), static_cast<unsigned>(args.group));
  if (args.bf16) {
    logits_kernel<bf16><<<grid, kThreads, 0, stream>>>(args);
  } else {
    logits_kernel<float><<<grid, kThreads, 0, stream>>>(args);
  }
  check_launch("logits");
}

}  // namespace winnow::cuda
