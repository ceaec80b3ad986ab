// LayerPlanner: what of one layer's attention is computed in a prefill. The main path (prefill.cc) makes one
// a layer and asks it before every chunk; dense policies get "everything" each time.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "runtime/attention_costs.h"
#include "sparsity/policy.h"

namespace winnow {

// What attention is about to be computed: one chunk of queries of one layer.
struct AttentionView {
  std::int64_t layer = 0;
  MatrixView q;                              // [rows, q_dim] rotated, compute dtype
  std::span<const std::int64_t> query_rows;  // [rows] cache rows of the queries
  const LayerKv* kv = nullptr;
  float scale = 1.0f;
  std::int64_t window = 0;  // AttentionParams::window
};

// Why a chunk was computed in full although the policy has a selector.
enum class DenseReason : std::uint8_t {
  kNone,
  kFirstLayers,  // the policy says so
  kWindow,       // the layer has a sliding window, and the backend plans none of those
  kShort,        // even the forced blocks and the planning would take longer
  kTooDense,     // the plan left too little out
};
const char* dense_reason_name(DenseReason reason);  // "", "first layers", "short", "too dense"

// One layer of a prefill.
struct BlockRecord {
  std::int64_t layer = 0;
  std::int64_t rows = 0;                        // queries computed
  double computed_pairs = 0, causal_pairs = 0;  // (query, key) pairs seen, mean over heads
  double plan_ms = 0;                           // planner and plans
  double attention_ms = 0;                      // attention and its output projection
  std::int64_t sparse_chunks = 0, dense_chunks = 0;
  DenseReason gated = DenseReason::kNone;  // of the last dense chunk

  double density() const { return causal_pairs == 0 ? 1.0 : computed_pairs / causal_pairs; }
};
nlohmann::json to_json(const BlockRecord& record);

// A layer's record with counts that a backend may still be working out.
struct LayerWork {
  BlockRecord counted;
  std::vector<std::shared_ptr<const PairCount>> computed;  // pairs to be added, one a chunk
  BlockRecord record() const;                              // waits for them
};

class LayerPlanner {
 public:
  // `all` are the queries of the tokens alive, of which the last `rows` will be asked for, chunk by chunk and
  // in order. `costs` null: blocks are skipped wherever the policy allows. Everything must outlive the
  // planner.
  LayerPlanner(const AttentionPolicy& policy, const AttentionCosts* costs, Backend& backend,
               const AttentionView& all, std::int64_t rows);

  // The chunk's plan, valid until the next call; null: everything is computed.
  const BlockPlan* plan(const MatrixView& q, std::span<const std::int64_t> query_rows);

  void add_attention_ms(double ms) { record_.attention_ms += ms; }
  LayerWork work() const { return {record_, uncounted_}; }
  BlockRecord record() const { return work().record(); }

 private:
  const BlockPlan* dense(double causal, DenseReason reason);
  SlidingWindow window() const { return all_.kv->window(all_.window); }
  double forced_pairs(std::span<const std::int64_t> query_rows) const;
  void make_planner();
  void plan_chunk(const MatrixView& q, std::span<const std::int64_t> query_rows);

  const AttentionPolicy& policy_;
  const AttentionCosts* costs_;
  Backend& backend_;
  AttentionView all_;
  std::int64_t dense_from_row_ = -1;
  std::optional<DenseReason> layer_dense_;  // no chunk needs to be looked at
  std::unique_ptr<BlockPlanner> planner_;   // made when the first chunk needs it
  std::int64_t planned_from_ = -1;          // the query that rest_ begins with; -1: there is none
  BlockPlan rest_, plan_;                   // of all queries from there on; of a chunk
  BlockRecord record_;
  std::vector<std::shared_ptr<const PairCount>> uncounted_;
};

}  // namespace winnow
