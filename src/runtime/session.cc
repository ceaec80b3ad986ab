// Session: construction and what both passes share. The prefill is in prefill.cc, decoding in
// session_batch.cc.
#include "runtime/session.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "runtime/prefill_plan.h"
#include "runtime/ranks.h"
#include "runtime/session_batch.h"
#include "sparsity/selector.h"

namespace winnow {

Session::Session(const Engine& engine)
    : engine_(engine),
      logits_(static_cast<std::size_t>(engine.arch().vocab)),
      logits_row_(engine.backend().allocate(engine.part_arch().vocab * 4)),
      workspace_(engine.workspace()) {
  const Architecture& arch = engine.arch();
  for (std::int64_t i = 0; i < arch.layers; ++i) {
    kv_.emplace_back();
    kv_.back().kv_heads = engine.part_arch().kv_heads;
    kv_.back().head_dim = arch.head_dim;
    kv_.back().here = has_layer(i);
    kv_.back().type = engine.kv_type();
  }
  if (arch.rope_scaling.kind == RopeScalingKind::kDynamic) {
    dynamic_rope_ = std::make_unique<DynamicRope>(arch, engine.backend());
  }
  decode_planners_.resize(kv_.size());
  if (engine.leader() != nullptr) number_ = engine.leader()->make_session();
}

Session::~Session() {
  if (engine_.leader() != nullptr) engine_.leader()->drop_session(number_);
}

DecoderLayer Session::layer(std::int64_t index, bool decode) const {
  return {engine_.part_arch(),
          engine_.weights().layers[index],
          dynamic_rope_ ? dynamic_rope_->tables() : engine_.weights().rope,
          engine_.backend(),
          workspace_,
          decode};
}

// With original positions a new token's position is its place in the conversation, the same in every layer.
// With compact ones it follows the layer's last row, which is the layer's row count unless `kv: final` has
// cut rows since.
std::int32_t Session::next_rope_position(const LayerKv& kv) const {
  if (positions_ == PositionMode::kOriginal) return static_cast<std::int32_t>(next_position_);
  return kv.rows == 0 ? 0 : kv.positions.back() + 1;
}

void Session::prepare_rope(std::int64_t tokens) {
  if (!dynamic_rope_) return;
  std::int32_t first = next_rope_position(kv_.front());
  for (const LayerKv& kv : kv_) first = std::min(first, next_rope_position(kv));
  dynamic_rope_->prepare(first, tokens);
}

float Session::attention_scale() const { return engine_.arch().attention_scale; }

void Session::logits_of(const MatrixView& hidden, const MatrixView& logits, bool decode) {
  const MatrixView normed = workspace_.normed(hidden.rows);
  apply_norm(engine_.arch(), engine_.backend(), engine_.weights().final_norm, hidden, normed);
  apply_linear(engine_.backend(), engine_.weights().lm_head, normed, logits, /*accumulate=*/false, decode);
}

void Session::last_logits_of(const MatrixView& hidden) {
  logits_of(hidden, {logits_row_.as<>(), DType::kF32, 1, engine_.part_arch().vocab});
}

void Session::check_decode(TokenId token) const {
  if (room() < 1) {
    fail(ErrorCode::kBadArgument, "the context of {} tokens is full: start a new conversation",
         engine_.arch().context);
  }
  if (token < 0 || token >= engine_.arch().vocab) {
    fail(ErrorCode::kBadArgument, "token id {} is outside the model's vocabulary of {}", token,
         engine_.arch().vocab);
  }
}

void Session::decode(TokenId token) {
  Session* self = this;
  decode_batch({&self, 1}, {&token, 1});
}

// The blocks a decoded token sees in a layer; null: everything. Heads that share a kv head share their
// blocks, so that what is read of the cache is read once.
const BlockPlan* Session::plan_decode(std::int64_t index, const MatrixView& q, std::int64_t row) {
  if (attention_.dense() || attention_.decode == DecodeMode::kDense) return nullptr;
  if (index < attention_.dense_first_layers) return nullptr;
  if (layer(index).window() > 0 && !engine_.backend().plans_windows()) return nullptr;
  std::unique_ptr<BlockPlanner>& planner = decode_planners_[static_cast<std::size_t>(index)];
  if (planner == nullptr) {
    BlockPlannerParams params = planner_params(attention_, index, engine_.part().heads);
    params.rule.group_union = true;
    params.kv = &kv_[index];
    params.scale = attention_scale();
    params.window = layer(index).window();
    params.last_q = q;
    planner = engine_.backend().make_planner(params);
  }
  planner->plan(q, {&row, 1}, decode_plan_);
  return &decode_plan_;
}

std::vector<std::int64_t> Session::kv_lens() const {
  std::vector<std::int64_t> rows;
  for (const LayerKv& kv : kv_) rows.push_back(kv.rows);
  return rows;
}

std::int64_t Session::kv_bytes() const {
  std::int64_t bytes = 0;
  for (const LayerKv& kv : kv_) {
    bytes += engine_.backend().cache_bytes(kv.type, engine_.arch().kv_heads, kv.head_dim,
                                           kv.rows);  // of all ranks
  }
  return bytes;
}

void Session::keep_rows(std::int64_t layer, std::span<const std::int64_t> rows) {
  engine_.backend().keep_rows(kv_[static_cast<std::size_t>(layer)], rows);
}

}  // namespace winnow
