#include "backends/backend.h"

#include <algorithm>

#include "backends/row_choice.h"
#include "core/check.h"
#include "core/uniform.h"

namespace winnow {

std::unique_ptr<Weight> Backend::pack_uniform(std::int64_t in_features, std::span<const UniformRows> parts) {
  std::int64_t out_features = 0;
  for (const UniformRows& part : parts) out_features += part.rows;
  return pack(out_features, in_features, [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
    std::int64_t first = 0;  // row of the part
    for (const UniformRows& part : parts) {
      for (std::int64_t row = std::max(begin, first); row < std::min(end, first + part.rows); ++row) {
        float* values = out.data() + (row - begin) * in_features;
        const auto index = static_cast<std::uint64_t>((row - first) * in_features);
        for (std::int64_t i = 0; i < in_features; ++i) {
          values[i] = part.scale * uniform(part.stream, index + static_cast<std::uint64_t>(i));
        }
      }
      first += part.rows;
    }
  });
}

MatrixView on_host(Backend& backend, const MatrixView& matrix, Buffer& copy) {
  if (backend.shares_host_memory()) return matrix;
  const std::int64_t bytes = matrix.rows * matrix.row_bytes();
  if (copy.bytes() < bytes) copy = Buffer::host(bytes);
  backend.download(matrix.data, copy.as<>(), bytes);
  return {copy.as<>(), matrix.dtype, matrix.rows, matrix.cols};
}

void Backend::gather(const Weight&, std::span<const std::int32_t>, float, const MatrixView&) {
  check(false, "gather: this backend keeps no embeddings");
}

std::unique_ptr<RowChoice> Backend::choose_rows(const RowChoiceParams&) { return nullptr; }

void Backend::keep_rows(const MatrixView&, const RowChoice&) {
  check(false, "keep_rows: this backend chooses no rows");
}

}  // namespace winnow
