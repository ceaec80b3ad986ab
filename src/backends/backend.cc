#include "backends/backend.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "backends/row_choice.h"
#include "core/check.h"
#include "core/uniform.h"
#include "ranks/communicator.h"

namespace winnow {

std::unique_ptr<Weight> Backend::pack_uniform(std::int64_t in_features, std::span<const UniformRows> parts) {
  std::int64_t out_features = 0;
  for (const UniformRows& part : parts) out_features += part.rows;
  return pack(out_features, in_features, [&](std::int64_t begin, std::int64_t end, std::span<float> out) {
    std::int64_t first = 0;  // row of the part
    for (const UniformRows& part : parts) {
      for (std::int64_t row = std::max(begin, first); row < std::min(end, first + part.rows); ++row) {
        float* values = out.data() + (row - begin) * in_features;
        const auto index = static_cast<std::uint64_t>(part.index(row - first, in_features));
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

void Backend::linear_over_ranks(const LinearParams& params) {
  if (!share_.sums) return linear(params);
  check(params.y.dtype == DType::kF32 && shares_host_memory(),
        "linear_over_ranks: sums in the host's memory");
  const std::int64_t count = params.y.rows * params.y.cols;
  if (summands_.bytes() < 4 * count) summands_ = allocate(4 * count);
  LinearParams own = params;
  own.y.data = summands_.as<>();
  own.accumulate = false;
  linear(own);
  const std::span<float> sums(summands_.as<float>(), static_cast<std::size_t>(count));
  share_.ranks->sum(sums);
  auto* y = params.y.row<float>(0);
  for (std::int64_t i = 0; i < count; ++i) y[i] = params.accumulate ? y[i] + sums[i] : sums[i];
}

double Backend::mean_over_model_heads(double mean_here) const {
  if (!share_.ranks || share_.heads.count == share_.model_heads) return mean_here;
  double sum = 0;
  for (const double part : share_.ranks->gather(mean_here * static_cast<double>(share_.heads.count))) {
    sum += part;
  }
  return sum / static_cast<double>(share_.model_heads);
}

void Backend::window_scores(const WindowScoresParams& params) {
  if (!share_.ranks) return own_window_scores(params);
  if (params.per_head) return window_scores_by_head(params);
  // The attention scorer's reductions: over all heads.
  check(params.heads.empty(), "window_scores of some heads over ranks: by head");
  if (params.kv->here) {
    own_window_scores(params);
  } else {
    std::fill(params.scores.begin(), params.scores.end(), 0.0f);
  }
  if (params.reduction == HeadReduction::kMax) return share_.ranks->maximum(params.scores);
  const float share = static_cast<float>(share_.heads.count) / static_cast<float>(share_.model_heads);
  for (float& score : params.scores) score *= share;
  share_.ranks->sum(params.scores);
}

// Heads that are with other ranks are left at 0 here, so that the sum over the ranks is each one's scores.
void Backend::window_scores_by_head(const WindowScoresParams& params) {
  std::vector<std::int32_t> asked(params.heads.begin(), params.heads.end());
  if (asked.empty()) {
    asked.resize(static_cast<std::size_t>(share_.model_heads));
    std::iota(asked.begin(), asked.end(), 0);
  }
  const std::int64_t rows = params.kv->rows;
  check(std::ssize(params.scores) == std::ssize(asked) * rows,
        "window_scores: a score for every head and row");
  std::vector<std::int32_t> here;
  std::vector<float> own;
  for (const std::int32_t head : asked) {
    if (params.kv->here && share_.heads.contains(head)) {
      here.push_back(static_cast<std::int32_t>(head - share_.heads.begin));
    }
  }
  if (!here.empty()) {
    own.resize(here.size() * static_cast<std::size_t>(rows));
    WindowScoresParams own_params = params;
    own_params.heads = here;
    own_params.scores = own;
    own_window_scores(own_params);
  }
  auto next = own.begin();
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto to = params.scores.begin() + static_cast<std::ptrdiff_t>(i) * rows;
    if (params.kv->here && share_.heads.contains(asked[i])) {
      std::copy_n(next, rows, to);
      next += rows;
    } else {
      std::fill_n(to, rows, 0.0f);
    }
  }
  share_.ranks->sum(params.scores);
}

void Backend::transfer(const MatrixView& x, int from, int to) {
  const int rank = share_.ranks->rank();
  const std::int64_t bytes = x.rows * x.row_bytes();
  Buffer copy;
  auto* host = static_cast<std::byte*>(x.data);
  if (!shares_host_memory()) {
    copy = Buffer::host(bytes);
    host = copy.as<>();
    if (rank == from) download(x.data, host, bytes);
  }
  share_.ranks->transfer({host, static_cast<std::size_t>(bytes)}, from, to);
  if (rank == to && !shares_host_memory()) upload(host, x.data, bytes);
}

void Backend::unpack(const LayerKv&, LayerKv&) { check(false, "unpack: this backend has no q8 caches"); }

std::int64_t Backend::q8_bytes(std::int64_t, std::int64_t, std::int64_t) const {
  check(false, "q8_bytes: this backend has no q8 caches");
  return 0;
}

void Backend::gather(const Weight&, std::span<const std::int32_t>, float, const MatrixView&) {
  check(false, "gather: this backend keeps no embeddings");
}

std::unique_ptr<RowChoice> Backend::choose_rows(const RowChoiceParams&) { return nullptr; }

void Backend::keep_rows(const MatrixView&, const RowChoice&) {
  check(false, "keep_rows: this backend chooses no rows");
}

}  // namespace winnow
