// Moving and converting rows: embeddings, compaction, noise, norms of rows.
#include "backends/cuda/device.h"
#include "backends/cuda/kernels.h"
#include "backends/cuda/numeric.cuh"
#include "core/uniform.h"

namespace winnow::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

template <class X, class Y>
__global__ void convert_kernel(const X* x, Y* y, std::int64_t count) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (i < count) y[i] = from_f32<Y>(to_f32(x[i]));
}

template <class X>
void convert_from(const void* x, void* y, bool y_bf16, std::int64_t count, cudaStream_t stream) {
  const auto* from = static_cast<const X*>(x);
  if (y_bf16) {
    convert_kernel<<<blocks_for(count), kThreads, 0, stream>>>(from, static_cast<bf16*>(y), count);
  } else {
    convert_kernel<<<blocks_for(count), kThreads, 0, stream>>>(from, static_cast<float*>(y), count);
  }
}

// Words of W; one block a row.
template <class W>
__global__ void gather_kernel(const W* x, const std::int64_t* rows, W* y, std::int64_t words) {
  const W* from = x + rows[blockIdx.x] * words;
  W* to = y + blockIdx.x * words;
  for (std::int64_t i = threadIdx.x; i < words; i += blockDim.x) to[i] = from[i];
}

// A block of threads takes kOwn words of every row, a batch of rows at a time: it has read a batch, and all
// before it, when it writes one; and rows only move up, so what is still to be read lies behind. The next
// batch is read while one is written.
template <class W>
class RowsMovingUp {
 public:
  static constexpr int kOwn = 4, kStep = kThreads / kOwn, kReads = 6, kBatch = kStep * kReads;

  __device__ RowsMovingUp(W* x, const std::int32_t* rows, std::int64_t first, std::int64_t count,
                          std::int64_t words)
      : rows_(rows), first_(first), count_(count), words_(words) {
    const std::int64_t word = blockIdx.x * std::int64_t{kOwn} + threadIdx.x % kOwn;
    own_ = word < words ? threadIdx.x / kOwn : count;  // row of each step; none where there is no word
    column_ = x + word;
  }

  __device__ void run() {
    W even[kReads], odd[kReads];
    find(0);
    read(0, even);
    find(kBatch);
    for (std::int64_t begin = 0; begin < count_; begin += 2 * kBatch) {
      read(begin + kBatch, odd);
      find(begin + 2 * kBatch);
      write(begin, even);
      read(begin + 2 * kBatch, even);
      find(begin + 3 * kBatch);
      write(begin + kBatch, odd);
    }
  }

 private:
  __device__ std::int64_t row(std::int64_t begin, int i) const { return begin + i * kStep + own_; }
  // Where the rows of a batch come from.
  __device__ void find(std::int64_t begin) {
#pragma unroll
    for (int i = 0; i < kReads; ++i) {
      if (row(begin, i) < count_) from_[i] = rows_[row(begin, i)];
    }
  }
  __device__ void read(std::int64_t begin, W (&to)[kReads]) const {
#pragma unroll
    for (int i = 0; i < kReads; ++i) {
      if (row(begin, i) < count_) to[i] = column_[(from_[i] - first_) * words_];
    }
  }
  __device__ void write(std::int64_t begin, const W (&from)[kReads]) const {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kReads; ++i) {
      if (row(begin, i) < count_) column_[row(begin, i) * words_] = from[i];
    }
  }

  const std::int32_t* rows_;
  std::int64_t first_, count_, words_, own_;
  W* column_;
  std::int32_t from_[kReads];
};

template <class W>
__global__ void __launch_bounds__(kThreads, 3)
    move_up_kernel(W* x, const std::int32_t* rows, std::int64_t first, std::int64_t count,
                   std::int64_t words) {
  RowsMovingUp<W>(x, rows, first, count, words).run();
}

template <class W>
void move_up_as(void* x, const std::int32_t* rows, std::int64_t first, std::int64_t count,
                std::int64_t row_bytes, cudaStream_t stream) {
  const std::int64_t words = row_bytes / static_cast<std::int64_t>(sizeof(W));
  constexpr std::int64_t kOwn = RowsMovingUp<W>::kOwn;
  move_up_kernel<<<static_cast<unsigned>((words + kOwn - 1) / kOwn), kThreads, 0, stream>>>(
      static_cast<W*>(x), rows, first, count, words);
}

template <class W>
void gather_as(const void* x, const std::int64_t* rows, void* y, std::int64_t count, std::int64_t row_bytes,
               cudaStream_t stream) {
  gather_kernel<<<static_cast<unsigned>(count), kThreads, 0, stream>>>(
      static_cast<const W*>(x), rows, static_cast<W*>(y), row_bytes / static_cast<std::int64_t>(sizeof(W)));
}

template <class T>
__global__ void embed_kernel(const T* table, const std::int32_t* tokens, float scale, float* hidden,
                             std::int64_t dim) {
  const T* from = table + tokens[blockIdx.x] * dim;
  float* to = hidden + blockIdx.x * dim;
  for (std::int64_t i = threadIdx.x; i < dim; i += blockDim.x) to[i] = scale * to_f32(from[i]);
}

template <class T>
__global__ void row_norms_kernel(const T* x, float* norms, std::int64_t cols) {
  __shared__ float shared[33];
  float sum = 0.0f;
  for (std::int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    const float value = to_f32(x[blockIdx.x * cols + i]);
    sum += value * value;
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) norms[blockIdx.x] = sqrtf(sum);
}

template <class T>
__global__ void uniform_kernel(UniformArgs args, T* y) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (i >= args.rows * args.cols) return;
  const std::int64_t index = args.first + i / args.cols * args.stride + i % args.cols;
  y[i] = from_f32<T>(args.scale * uniform(args.stream_id, static_cast<std::uint64_t>(index)));
}

}  // namespace

void launch_convert(const void* x, bool x_bf16, void* y, bool y_bf16, std::int64_t count,
                    cudaStream_t stream) {
  if (count == 0) return;
  if (x_bf16) {
    convert_from<bf16>(x, y, y_bf16, count, stream);
  } else {
    convert_from<float>(x, y, y_bf16, count, stream);
  }
  check_launch("convert");
}

void launch_gather_rows(const void* x, const std::int64_t* rows, void* y, std::int64_t count,
                        std::int64_t row_bytes, cudaStream_t stream) {
  if (count == 0) return;
  if (row_bytes % 16 == 0) {
    gather_as<uint4>(x, rows, y, count, row_bytes, stream);
  } else {
    gather_as<std::uint16_t>(x, rows, y, count, row_bytes, stream);
  }
  check_launch("gather rows");
}

void launch_move_up(void* x, const std::int32_t* rows, std::int64_t first, std::int64_t count,
                    std::int64_t row_bytes, cudaStream_t stream) {
  if (count == 0) return;
  if (row_bytes % 16 == 0) {
    move_up_as<uint4>(x, rows, first, count, row_bytes, stream);
  } else {
    move_up_as<std::uint16_t>(x, rows, first, count, row_bytes, stream);
  }
  check_launch("rows move up");
}

void launch_embed(const void* table, bool use_bf16, const std::int32_t* tokens, float scale, float* hidden,
                  std::int64_t count, std::int64_t dim, cudaStream_t stream) {
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>(count);
  if (use_bf16) {
    embed_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const bf16*>(table), tokens, scale, hidden,
                                                  dim);
  } else {
    embed_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const float*>(table), tokens, scale, hidden,
                                                  dim);
  }
  check_launch("embed");
}

void launch_row_norms(const void* x, bool use_bf16, float* norms, std::int64_t rows, std::int64_t cols,
                      cudaStream_t stream) {
  if (rows == 0) return;
  const auto blocks = static_cast<unsigned>(rows);
  if (use_bf16) {
    row_norms_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const bf16*>(x), norms, cols);
  } else {
    row_norms_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const float*>(x), norms, cols);
  }
  check_launch("row norms");
}

void launch_uniform(const UniformArgs& args, cudaStream_t stream) {
  const std::int64_t count = args.rows * args.cols;
  if (count == 0) return;
  if (args.bf16) {
    uniform_kernel<<<blocks_for(count), kThreads, 0, stream>>>(args, static_cast<bf16*>(args.y));
  } else {
    uniform_kernel<<<blocks_for(count), kThreads, 0, stream>>>(args, static_cast<float*>(args.y));
  }
  check_launch("uniform");
}

}  // namespace winnow::cuda
