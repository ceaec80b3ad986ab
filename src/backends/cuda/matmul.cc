#include "backends/cuda/matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "backends/cuda/cublas_lt.h"
#include "backends/cuda/device_buffer.h"
#include "backends/cuda/fastest.h"
#include "backends/cuda/kernels.h"
#include "core/error.h"

namespace winnow::cuda {
namespace {

constexpr std::int64_t kWorkspaceBytes = 64 << 20;
constexpr int kCandidates = 12;

void check_blas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    fail(ErrorCode::kUnsupported, "cuBLASLt: {}: {}", what, cublas_lt().get_status_string(status));
  }
}

// Descriptors that are destroyed with the scope.
struct Product {
  cublasLtMatmulDesc_t desc = nullptr;
  explicit Product(cublasOperation_t transpose_a) {
    check_blas(cublas_lt().desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product");
    set(CUBLASLT_MATMUL_DESC_TRANSA, transpose_a);
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    check_blas(cublas_lt().desc_set_attribute(desc, attribute, &value, sizeof(value)),
               "a product's attribute");
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
  ~Product() { cublas_lt().desc_destroy(desc); }
};

struct Layout {
  cublasLtMatrixLayout_t desc = nullptr;
  // Column-major, as cuBLAS has it.
  Layout(bool bf16, std::int64_t rows, std::int64_t cols, std::int64_t stride) {
    check_blas(
        cublas_lt().layout_create(&desc, bf16 ? CUDA_R_16BF : CUDA_R_32F, static_cast<std::uint64_t>(rows),
                                  static_cast<std::uint64_t>(cols), stride),
        "a matrix");
  }
  void batch(std::int32_t count, std::int64_t step) {
    check_blas(
        cublas_lt().layout_set_attribute(desc, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)),
        "a batch");
    check_blas(cublas_lt().layout_set_attribute(desc, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step,
                                                sizeof(step)),
               "a batch");
  }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  ~Layout() { cublas_lt().layout_destroy(desc); }
};

// The largest power of two, up to 256, that divides all of them.
int common_alignment(std::initializer_list<const void*> pointers) {
  std::uintptr_t bits = 256;
  for (const void* pointer : pointers) bits |= reinterpret_cast<std::uintptr_t>(pointer);
  return 1 << std::countr_zero(bits);
}

std::vector<cublasLtMatmulHeuristicResult_t> candidates(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                                        const cublasLtMatrixLayout_t (&layouts)[3],
                                                        int alignment) {
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublas_lt().preference_create(&preference), "a preference");
  const std::uint64_t bytes = kWorkspaceBytes;
  cublas_lt().preference_set_attribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                       sizeof(bytes));
  const auto least = static_cast<std::uint32_t>(alignment);
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    cublas_lt().preference_set_attribute(preference, attribute, &least, sizeof(least));
  }
  std::vector<cublasLtMatmulHeuristicResult_t> found(kCandidates);
  int count = 0;
  const cublasStatus_t status =
      cublas_lt().algo_get_heuristic(handle, product, layouts[0], layouts[1], layouts[2], layouts[2],
                                     preference, kCandidates, found.data(), &count);
  cublas_lt().preference_destroy(preference);
  check_blas(status, "choosing an algorithm");
  if (count == 0) fail(ErrorCode::kUnsupported, "cuBLASLt has no algorithm for a product of this model");
  found.resize(static_cast<std::size_t>(count));
  return found;
}

}  // namespace

Matmul::Matmul(Device& device, const StoredChoices& stored) : device_(device) {
  check_blas(cublas_lt().create(&handle_), "a handle");
  workspace_ = allocate_bytes(kWorkspaceBytes, device.index());
  load_choices(stored);
}

Matmul::~Matmul() {
  release_bytes(workspace_);
  cublas_lt().destroy(handle_);
}

// In cuBLAS's column-major terms: y^T [out, rows] = (W^T)^T [out, in] x^T [in, rows].
void Matmul::linear(const MatmulArgs& args) {
  if (args.rows == 0) return;
  Product product(CUBLAS_OP_T);
  if (args.bias != nullptr) {
    product.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    product.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
  }
  const Layout weight(args.bf16, args.in, args.out, args.in), x(args.bf16, args.in, args.rows, args.in),
      y(args.y_bf16, args.out, args.rows, args.out);
  const cublasLtMatrixLayout_t layouts[3] = {weight.desc, x.desc, y.desc};
  const int alignment = common_alignment({args.weight, args.x, args.y, args.bias});
  const float alpha = 1.0f, beta = args.accumulate ? 1.0f : 0.0f;
  const auto run = [&](const cublasLtMatmulAlgo_t& algorithm) {
    return cublas_lt().matmul(handle_, product.desc, &alpha, args.weight, weight.desc, args.x, x.desc, &beta,
                              args.y, y.desc, args.y, y.desc, &algorithm, workspace_, kWorkspaceBytes,
                              device_.stream());
  };
  // What was chosen for another number of rows may not take this one.
  if (run(choose(args, product.desc, layouts, alignment)) == CUBLAS_STATUS_SUCCESS) return;
  check_blas(run(candidates(handle_, product.desc, layouts, alignment)[0].algo), "a product");
}

void Matmul::batched_logits(const BatchedLogitsArgs& args) {
  Product product(CUBLAS_OP_T);
  Layout k(true, args.dim, args.rows, args.k_stride), q(true, args.dim, args.queries, args.dim),
      logits(false, args.rows, args.queries, args.logits_stride);
  const auto batch = static_cast<std::int32_t>(args.batch);
  k.batch(batch, args.dim);
  q.batch(batch, args.queries * args.dim);
  logits.batch(batch, args.queries * args.logits_stride);
  const cublasLtMatrixLayout_t layouts[3] = {k.desc, q.desc, logits.desc};
  const float alpha = 1.0f, beta = 0.0f;
  const auto run = [&](const cublasLtMatmulAlgo_t& algorithm) {
    return cublas_lt().matmul(handle_, product.desc, &alpha, args.k, k.desc, args.q, q.desc, &beta,
                              args.logits, logits.desc, args.logits, logits.desc, &algorithm, workspace_,
                              kWorkspaceBytes, device_.stream());
  };
  const Key key{choice_rows(args.rows), args.queries, args.dim, batch, 0};
  if (const auto known = logit_choices_.find(key); known != logit_choices_.end()) {
    if (run(known->second) == CUBLAS_STATUS_SUCCESS) return;
  }
  // Asking takes longer than the product does.
  const cublasLtMatmulAlgo_t algorithm = candidates(handle_, product.desc, layouts, 16)[0].algo;
  logit_choices_.insert_or_assign(key, algorithm);
  check_blas(run(algorithm), "logits");
}

const cublasLtMatmulAlgo_t& Matmul::choose(const MatmulArgs& args, cublasLtMatmulDesc_t product,
                                           const cublasLtMatrixLayout_t (&layouts)[3], int alignment) {
  const int kind = args.bf16 | args.y_bf16 << 1 | args.accumulate << 2 | (args.bias != nullptr) << 3;
  const Key key{choice_rows(args.rows), args.in, args.out, kind, alignment};
  if (const auto found = choices_.find(key); found != choices_.end()) return found->second;
  if (const auto found = stored_.find(key_text(key)); found != stored_.end()) {
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t status = cublas_lt().algo_check(handle_, product, layouts[0], layouts[1], layouts[2],
                                                         layouts[2], &found->second, &result);
    if (status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes) {
      return choices_.emplace(key, found->second).first->second;
    }
  }
  constexpr std::int64_t kWorthMeasuring = 64;  // rows
  const cublasLtMatmulAlgo_t& chosen =
      choices_
          .emplace(key, args.rows < kWorthMeasuring ? candidates(handle_, product, layouts, alignment)[0].algo
                                                    : measure(args, product, layouts, alignment))
          .first->second;
  store_choice(key, chosen);
  return chosen;
}

cublasLtMatmulAlgo_t Matmul::measure(const MatmulArgs& args, cublasLtMatmulDesc_t product,
                                     const cublasLtMatrixLayout_t (&layouts)[3], int alignment) {
  const auto found = candidates(handle_, product, layouts, alignment);
  if (found.size() == 1) return found[0].algo;
  const std::int64_t most = most_choice_rows(args.rows);
  const MeasuredRows x(device_, args.x, args.rows, most, args.in * (args.bf16 ? 2 : 4));
  const Buffer y = allocate_buffer(device_, most * args.out * (args.y_bf16 ? 2 : 4));
  const float alpha = 1.0f, beta = args.accumulate ? 1.0f : 0.0f;
  const auto measured = [&](std::int64_t rows, int rounds) {
    const Layout inputs(args.bf16, args.in, rows, args.in), outputs(args.y_bf16, args.out, rows, args.out);
    return measure_ways(device_, found.size(), rounds, [&](std::size_t i) {
      return cublas_lt().matmul(handle_, product, &alpha, args.weight, layouts[0], x.data(), inputs.desc,
                                &beta, y.as<>(), outputs.desc, y.as<>(), outputs.desc, &found[i].algo,
                                workspace_, kWorkspaceBytes, device_.stream()) == CUBLAS_STATUS_SUCCESS;
    });
  };
  return found[fastest_way(args.rows, most, measured)].algo;
}

std::string Matmul::key_text(const Key& key) const {
  const auto& [rows, in, out, kind, alignment] = key;
  return fmt::format("{} | cuBLASLt {} | rows {} in {} out {} kind {} alignment {}", device_.name(),
                     cublas_lt().get_version(), rows, in, out, kind, alignment);
}

// An algorithm is 64 opaque bytes that stay valid for a version of the library.
void Matmul::load_choices(const StoredChoices& stored) {
  for (const auto& [key, words] : stored) {
    cublasLtMatmulAlgo_t algorithm{};
    if (words.size() != std::size(algorithm.data)) continue;
    std::copy(words.begin(), words.end(), algorithm.data);
    stored_.emplace(key, algorithm);
  }
}

void Matmul::store_choice(const Key& key, const cublasLtMatmulAlgo_t& algorithm) const {
  add_choice(key_text(key), {std::begin(algorithm.data), std::end(algorithm.data)});
}

}  // namespace winnow::cuda
