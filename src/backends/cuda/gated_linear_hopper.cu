#include <algorithm>

#include "backends/cuda/device.h"
#include "backends/cuda/gated_linear_hopper.cuh"
#include "backends/cuda/gated_linear_hopper.h"
#include "backends/cuda/tensor_map.h"
#include "core/check.h"

namespace winnow::cuda {
namespace {

using hopper::GatedArgs;
using hopper::GatedShape;

CUtensorMap map_of(const void* data, std::int64_t rows, std::int64_t columns, int box_rows) {
  return make_tensor_map({.data = data,
                          .columns = columns,
                          .rows = rows,
                          .heads = 1,
                          .row_stride = columns,
                          .head_stride = rows * columns},
                         box_rows);
}

template <Activation kKind>
void launch(const GatedLinearArgs& p, int group, int multiprocessors, cudaStream_t stream) {
  constexpr int kBlocks = GatedShape::kBlocks;
  const auto tiles = [](std::int64_t n, int size) { return static_cast<int>((n + size - 1) / size); };
  GatedArgs args{};
  args.x = map_of(p.x, p.rows, p.in, GatedShape::kRows);
  args.weight = map_of(p.weight, 2 * p.dim, p.in, GatedShape::kColumns);
  args.y = map_of(p.y, p.rows, p.dim, 64);
  args.steps = tiles(p.in, GatedShape::kFeatures);
  args.row_tiles = tiles(p.rows, GatedShape::kRows * kBlocks);
  args.col_tiles = tiles(p.dim, GatedShape::kColumns);
  args.group = group;
  args.columns = static_cast<int>(p.dim);
  constexpr int kBytes = sizeof(hopper::GatedMemory) + 1024;
  const auto kernel = hopper::gated_kernel<kKind>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
             "shared memory for a gated product");
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config{};
  const int clusters = std::min(args.row_tiles * args.col_tiles, multiprocessors / kBlocks);
  config.gridDim = dim3(static_cast<unsigned>(clusters * kBlocks));
  config.blockDim = dim3(GatedShape::kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, args), "a gated product");
}

}  // namespace

bool gated_kernel_takes(const GatedLinearArgs& p) {
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
  };
  return p.rows > 0 && p.in % 8 == 0 && p.dim % 8 == 0 && aligned(p.x) && aligned(p.weight) && aligned(p.y);
}

void launch_gated_kernel(const GatedLinearArgs& args, int group, int multiprocessors, cudaStream_t stream) {
  check(args.kind == Activation::kSiluGated || args.kind == Activation::kGeluTanhGated,
        "a gated product: the activation is gated");
  if (args.kind == Activation::kSiluGated) {
    launch<Activation::kSiluGated>(args, group, multiprocessors, stream);
  } else {
    launch<Activation::kGeluTanhGated>(args, group, multiprocessors, stream);
  }
}

}  // namespace winnow::cuda
