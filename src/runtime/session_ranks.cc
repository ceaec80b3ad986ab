// Session: what the ranks of an engine agree on while they run the same call. Alone, nothing.
#include <algorithm>
#include <new>
#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/ranks.h"
#include "runtime/session.h"

namespace winnow {
namespace {

constexpr int kCan = -1;  // as an ErrorCode

struct Objection {
  int code = kCan;
  std::string why;
};

Objection objection_to(const std::function<void()>& prepare) {
  try {
    prepare();
  } catch (const Error& error) {
    return {static_cast<int>(error.code()), error.what()};
  } catch (const std::bad_alloc&) {
    return {static_cast<int>(ErrorCode::kOutOfMemory), "out of memory"};
  } catch (const std::exception& error) {
    return {static_cast<int>(ErrorCode::kUnsupported), error.what()};
  }
  return {};
}

}  // namespace

bool Session::all_can(const std::function<void()>& prepare) const {
  Communicator* ranks = engine_.ranks();
  if (ranks == nullptr) {
    prepare();
    return true;
  }
  const Objection own = objection_to(prepare);
  const std::vector<int> codes = ranks->gather(own.code);
  const auto first = std::find_if(codes.begin(), codes.end(), [](int code) { return code != kCan; });
  if (first == codes.end()) return true;
  const auto rank = static_cast<int>(first - codes.begin());
  std::vector<char> why(own.why.begin(), own.why.end());
  ranks->share(why, rank);
  if (ranks->rank() > 0) return false;
  fail(static_cast<ErrorCode>(*first), "{}{}", rank == 0 ? "" : fmt::format("rank {}: ", rank),
       std::string(why.begin(), why.end()));
}

bool Session::cancelled(const std::function<bool()>& asked) const {
  if (!asked) return false;
  const bool stop = asked();
  if (Leader* leader = engine_.leader()) leader->go_on(stop);
  return stop;
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

void Session::note_rows(LayerKv& kv, std::span<const std::int32_t> positions) {
  kv.positions.insert(kv.positions.end(), positions.begin(), positions.end());
  kv.rows += std::ssize(positions);
}

void Session::common_logits(const MatrixView& part, float* logits) const {
  Backend& backend = engine_.backend();
  const std::int64_t vocab = engine_.arch().vocab, rows = part.rows;
  const auto columns_of = [&](int rank, std::int64_t row) {
    const Range range = engine_.parts()[static_cast<std::size_t>(rank)].vocab;
    return std::span(logits + row * vocab + range.begin, static_cast<std::size_t>(range.count));
  };
  for (std::int64_t row = 0; part.cols > 0 && row < rows; ++row) {
    backend.download(part.row<float>(row), columns_of(engine_.rank(), row).data(), part.row_bytes());
  }
  for (int rank = 1; engine_.ranks() != nullptr && rank < engine_.ranks()->size(); ++rank) {
    for (std::int64_t row = 0; row < rows; ++row) {
      engine_.ranks()->transfer(std::as_writable_bytes(columns_of(rank, row)), rank, 0);
    }
  }
}

}  // namespace winnow
