// Session: what the ranks of an engine agree on while they run the same call. Alone, nothing.
#include <algorithm>

#include "runtime/session.h"

namespace winnow {

bool Session::agreed(bool asked) const {
  if (engine_.ranks() != nullptr) engine_.ranks()->share(asked);
  return asked;
}

std::optional<AttentionCosts> Session::common_costs(const AttentionPolicy& attention) const {
  if (attention.dense() || !attention.gate) return std::nullopt;
  AttentionCosts costs;
  if (engine_.rank() == 0) costs = engine_.attention_costs(attention.rule);
  if (engine_.ranks() != nullptr) engine_.ranks()->share(costs);
  return costs;
}

void Session::hand_over(const MatrixView& hidden, std::int64_t layer) const {
  if (layer == 0 || engine_.ranks() == nullptr) return;
  const int from = rank_of_layer(engine_.parts(), layer - 1), to = rank_of_layer(engine_.parts(), layer);
  if (from != to) engine_.backend().transfer(hidden, from, to);
}

BlockRecord Session::common_record(BlockRecord record) const {
  const std::vector<ModelPart>& parts = engine_.parts();
  const bool by_layers = engine_.part().layers.count < engine_.arch().layers;
  if (by_layers) engine_.ranks()->share(record, rank_of_layer(parts, record.layer));
  if (record.sparse_chunks > 0) {
    record.computed_pairs = engine_.backend().mean_over_model_heads(record.computed_pairs);
  }
  return record;
}

MatrixView Session::common_logits(const MatrixView& part, Buffer& copy) const {
  Backend& backend = engine_.backend();
  if (engine_.ranks() == nullptr) return on_host(backend, part, copy);
  const std::int64_t rows = part.rows, vocab = engine_.arch().vocab;
  if (copy.bytes() < 4 * rows * vocab) copy = Buffer::host(4 * rows * vocab);
  const MatrixView all{copy.as<>(), DType::kF32, rows, vocab};
  std::vector<float> columns;  // a rank's, [rows, its vocab]
  for (int rank = 0; rank < engine_.ranks()->size(); ++rank) {
    const Range range = engine_.parts()[static_cast<std::size_t>(rank)].vocab;
    columns.resize(static_cast<std::size_t>(rows * range.count));
    if (columns.empty()) continue;
    if (rank == engine_.rank()) {
      backend.download(part.data, columns.data(), static_cast<std::int64_t>(columns.size() * sizeof(float)));
    }
    if (rank != 0) engine_.ranks()->transfer(std::as_writable_bytes(std::span(columns)), rank, 0);
    for (std::int64_t row = 0; row < rows; ++row) {
      std::copy_n(columns.data() + row * range.count, range.count, all.row<float>(row) + range.begin);
    }
  }
  return all;
}

}  // namespace winnow
