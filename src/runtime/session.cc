// Session: construction, decode and what both passes share. The prefill is in prefill.cc.
#include "runtime/session.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/check.h"
#include "core/elapsed.h"
#include "runtime/prefill_plan.h"
#include "sparsity/selector.h"

namespace winnow {

Session::Session(const Engine& engine)
    : engine_(engine),
      logits_(static_cast<std::size_t>(engine.arch().vocab)),
      logits_row_(engine.backend().allocate(engine.arch().vocab * 4)),
      workspace_(engine.workspace()) {
  const Architecture& arch = engine.arch();
  for (std::int64_t i = 0; i < arch.layers; ++i) {
    kv_.emplace_back();
    kv_.back().kv_heads = arch.kv_heads;
    kv_.back().head_dim = arch.head_dim;
  }
  Backend& backend = engine.backend();
  if (arch.rope_scaling.kind == RopeScalingKind::kDynamic) {
    dynamic_rope_ = std::make_unique<DynamicRope>(arch, backend);
  }
  decode_planners_.resize(kv_.size());
  decode_hidden_ = backend.allocate(arch.model_dim * 4);
  decode_q_ = backend.allocate(dtype_bytes(backend.compute_dtype(), arch.q_dim()));
}

Session::~Session() = default;

DecoderLayer Session::layer(std::int64_t index) const {
  return {engine_.arch(), engine_.weights().layers[index],
          dynamic_rope_ ? dynamic_rope_->tables() : engine_.weights().rope, engine_.backend(), workspace_};
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

void Session::logits_of(const MatrixView& hidden, const MatrixView& logits) {
  const MatrixView normed = workspace_.normed(hidden.rows);
  apply_norm(engine_.arch(), engine_.backend(), engine_.weights().final_norm, hidden, normed);
  apply_linear(engine_.backend(), engine_.weights().lm_head, normed, logits);
}

void Session::last_logits_of(const MatrixView& hidden) {
  logits_of(hidden, {logits_row_.as<>(), DType::kF32, 1, engine_.arch().vocab});
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
  check_decode(token);
  const auto start = std::chrono::steady_clock::now();
  const Architecture& arch = engine_.arch();
  Backend& backend = engine_.backend();
  const MatrixView hidden{decode_hidden_.as<>(), DType::kF32, 1, arch.model_dim};
  const MatrixView q{decode_q_.as<>(), backend.compute_dtype(), 1, arch.q_dim()};
  for (LayerKv& kv : kv_) {  // all of them first: what can fail must not fail between two layers
    if (kv.rows == kv.capacity)
      backend.reserve(kv, kv.capacity + std::max<std::int64_t>(256, kv.capacity / 4));
    kv.positions.reserve(static_cast<std::size_t>(kv.capacity));
  }
  prepare_rope(next_position_ + 1);
  embed(engine_.weights(), engine_.source(), arch, backend, {&token, 1}, next_position_, hidden);
  backend.begin_step();
  for (std::int64_t i = 0; i < arch.layers; ++i) {
    LayerKv& kv = kv_[i];
    const std::int32_t position = next_rope_position(kv);
    const std::int64_t row = kv.rows;
    const DecoderLayer step = layer(i);
    step.project_qkv(hidden, {&position, 1}, q, kv);
    const BlockPlan* plan = plan_decode(i, q, row);
    const SlidingWindow window = kv.window(step.window());
    const double causal = visible_pairs({&row, 1}, window);
    const double pairs = plan == nullptr ? causal : plan_work(*plan, {&row, 1}, window).computed;
    step.attend(hidden, q, {&row, 1}, kv, plan);
    step.feed_forward(hidden);
    decode_stats_.kv_bytes += static_cast<double>(backend.kv_bytes(arch.kv_heads, arch.head_dim, kv.rows)) *
                              pairs / static_cast<double>(kv.rows);
    decode_stats_.attention_flops += 4.0 * static_cast<double>(arch.q_dim()) * pairs;
    decode_stats_.attention_pairs += pairs;
    decode_stats_.causal_pairs += causal;
  }
  last_logits_of(hidden);
  backend.end_step();
  backend.download(logits_row_.as<>(), logits_.data(), logits_row_.bytes());
  next_position_ += 1;
  decode_stats_.linear_flops += static_cast<double>(arch.layers) * arch.layer_linear_flops() +
                                2.0 * static_cast<double>(arch.model_dim * arch.vocab);
  decode_stats_.weight_bytes += static_cast<double>(engine_.weights().bytes);
  decode_stats_.ms += ms_since(start);
}

// The blocks a decoded token sees in a layer; null: everything. Heads that share a kv head share their
// blocks, so that what is read of the cache is read once.
const BlockPlan* Session::plan_decode(std::int64_t index, const MatrixView& q, std::int64_t row) {
  if (attention_.dense() || attention_.decode == DecodeMode::kDense) return nullptr;
  if (index < attention_.dense_first_layers) return nullptr;
  if (layer(index).window() > 0 && !engine_.backend().plans_windows()) return nullptr;
  std::unique_ptr<BlockPlanner>& planner = decode_planners_[static_cast<std::size_t>(index)];
  if (planner == nullptr) {
    BlockPlannerParams params = planner_params(attention_, index, engine_.arch().heads);
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
  for (const LayerKv& kv : kv_) bytes += engine_.backend().kv_bytes(kv.kv_heads, kv.head_dim, kv.rows);
  return bytes;
}

}  // namespace winnow
