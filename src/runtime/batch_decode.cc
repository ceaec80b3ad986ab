// Decoding: every session gets one row more in each layer's cache. One pass over the weights for all
// sessions; attention goes to each one's cache.
#include "runtime/batch_decode.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/check.h"
#include "core/elapsed.h"
#include "core/error.h"
#include "runtime/ranks.h"

namespace winnow {

class Session::Step {
 public:
  Step(std::span<Session* const> sessions, std::span<const TokenId> tokens)
      : sessions_(sessions), tokens_(tokens), first_(*sessions[0]), engine_(first_.engine_) {
    const Architecture& arch = engine_.arch();
    Backend& backend = engine_.backend();
    const auto count = static_cast<std::int64_t>(sessions.size());
    hidden_ = {nullptr, DType::kF32, count, arch.model_dim};
    q_ = {nullptr, backend.compute_dtype(), count, engine_.part_arch().q_dim()};
    logits_ = {nullptr, DType::kF32, count, engine_.part_arch().vocab};
    const std::int64_t hidden_bytes = padded_bytes(hidden_), q_bytes = padded_bytes(q_),
                       logits_bytes = count == 1 ? 0 : padded_bytes(logits_);
    Buffer& memory = first_.decode_memory_;
    if (memory.bytes() < hidden_bytes + q_bytes + logits_bytes) {
      memory = backend.allocate(hidden_bytes + q_bytes + logits_bytes);
    }
    hidden_.data = memory.as<>();
    q_.data = memory.as<>() + hidden_bytes;
    logits_.data = count == 1 ? first_.logits_row_.as<>() : memory.as<>() + hidden_bytes + q_bytes;
    if (count == 1 && backend.shares_host_memory() && engine_.ranks() == nullptr) {
      logits_.data = first_.logits_.data();
    }
    rows_.resize(sessions.size());
    positions_.resize(sessions.size());
    append_.reserve(sessions.size());
    attention_.reserve(sessions.size());
    for (Session* session : sessions) {  // what can fail must not fail between two layers
      make_room(*session);
      session->prepare_rope(session->next_position_ + 1);
    }
  }

  void run() {
    Backend& backend = engine_.backend();
    const Range here = engine_.part().layers;
    for (std::int64_t i = 0; here.begin == 0 && i < hidden_.rows; ++i) {
      embed(engine_.weights(), engine_.source(), engine_.arch(), backend, {&tokens_[i], 1},
            sessions_[i]->next_position_, hidden_.slice(i, 1));
    }
    const bool one = sessions_.size() == 1;
    for (std::int64_t layer = 0; layer < here.begin; ++layer) pass_layer(layer);
    first_.hand_over(hidden_, here.begin);
    if (one) backend.begin_step();
    for (std::int64_t layer = here.begin; layer < here.end(); ++layer) run_layer(layer);
    if (logits_.cols > 0) first_.logits_of(hidden_, logits_, /*decode=*/true);
    if (one) backend.end_step();
    for (std::int64_t layer = here.end(); layer < engine_.arch().layers; ++layer) pass_layer(layer);
  }

  // After run(): the sessions are one token further.
  void finish(double ms) {
    const Architecture& arch = engine_.arch();
    for (std::int64_t i = 0; i < hidden_.rows; ++i) {
      Session& session = *sessions_[i];
      if (logits_.data != session.logits_.data()) {
        first_.common_logits(logits_.slice(i, 1), session.logits_.data());
      }
      session.next_position_ += 1;
      session.decode_stats_.linear_flops += static_cast<double>(arch.layers) * arch.layer_linear_flops() +
                                            2.0 * static_cast<double>(arch.model_dim * arch.vocab);
      session.decode_stats_.weight_bytes += static_cast<double>(engine_.weights().decode_bytes);
      session.decode_stats_.ms += ms;
    }
  }

 private:
  static std::int64_t padded_bytes(const MatrixView& view) {
    constexpr std::int64_t kAlignment = 256;
    return (view.rows * view.row_bytes() + kAlignment - 1) / kAlignment * kAlignment;
  }

  static void make_room(Session& session) {
    for (LayerKv& kv : session.kv_) {
      if (kv.here && kv.rows == kv.capacity) {
        session.engine_.backend().reserve(kv, kv.capacity + std::max<std::int64_t>(256, kv.capacity / 4));
      }
      kv.positions.reserve(static_cast<std::size_t>(std::max(kv.capacity, kv.rows + 1)));
    }
  }

  // A layer of another rank: its rows are noted, and hidden states go on to the next where that is needed.
  void pass_layer(std::int64_t index) {
    first_.hand_over(hidden_, index);
    for (Session* session : sessions_) {
      LayerKv& kv = session->kv_[index];
      kv.positions.push_back(session->next_rope_position(kv));
      const std::int64_t row = kv.rows++;
      // Its rank may compute selected blocks alone: counted in full.
      count_work(
          *session,
          {.q = {}, .query_rows = {&row, 1}, .kv = &kv, .out = {}, .window = session->layer(index).window()});
    }
  }

  void run_layer(std::int64_t index) {
    const DecoderLayer step = first_.layer(index, /*decode=*/true);
    const MatrixView qkv = step.project(hidden_);
    append_.clear();
    for (std::int64_t i = 0; i < hidden_.rows; ++i) {
      LayerKv& kv = sessions_[i]->kv_[index];
      positions_[i] = sessions_[i]->next_rope_position(kv);
      rows_[i] = kv.rows;
      const DecoderLayer own = sessions_[i]->layer(index);  // a session may have rope tables of its own
      append_.push_back(own.append_params(qkv.slice(i, 1), {&positions_[i], 1}, q_.slice(i, 1), kv));
    }
    engine_.backend().rope_append_each(append_);
    attention_.clear();
    for (std::int64_t i = 0; i < hidden_.rows; ++i) {
      Session& session = *sessions_[i];
      const LayerKv& kv = session.kv_[index];
      const BlockPlan* plan = session.plan_decode(index, q_.slice(i, 1), rows_[i]);
      attention_.push_back(step.attention_params(q_.slice(i, 1), i, {&rows_[i], 1}, kv, plan));
      count_work(session, attention_.back());
    }
    step.attend_each(hidden_, attention_);
    step.feed_forward(hidden_);
  }

  void count_work(Session& session, const AttentionParams& attention) {
    const Architecture& arch = engine_.arch();
    const SlidingWindow window = attention.kv->window(attention.window);
    const double causal = visible_pairs(attention.query_rows, window);
    const double pairs = attention.plan == nullptr
                             ? causal
                             : plan_work(*attention.plan, attention.query_rows, window).computed;
    const std::int64_t rows = attention.kv->rows;
    session.decode_stats_.kv_bytes +=
        static_cast<double>(engine_.backend().kv_bytes(arch.kv_heads, arch.head_dim, rows)) * pairs /
        static_cast<double>(rows);
    session.decode_stats_.attention_flops += 4.0 * static_cast<double>(arch.q_dim()) * pairs;
    session.decode_stats_.attention_pairs += pairs;
    session.decode_stats_.causal_pairs += causal;
  }

  std::span<Session* const> sessions_;
  std::span<const TokenId> tokens_;
  Session& first_;  // whose working memory is used
  const Engine& engine_;
  MatrixView hidden_, logits_, q_;          // [sessions, ...]
  std::vector<std::int64_t> rows_;          // [sessions] this layer's new cache rows
  std::vector<std::int32_t> positions_;     // [sessions] and their positions
  std::vector<RopeAppendParams> append_;    // [sessions]
  std::vector<AttentionParams> attention_;  // [sessions]
};

void decode_batch(std::span<Session* const> sessions, std::span<const TokenId> tokens) {
  check(sessions.size() == tokens.size(), "decode_batch: one token a session");
  if (sessions.empty()) return;
  const auto start = std::chrono::steady_clock::now();
  const Engine& engine = sessions[0]->engine_;
  check(static_cast<std::int64_t>(sessions.size()) <= engine.backend().chunk_rows(),
        "decode_batch: no more sessions than chunk_rows()");
  std::vector<std::int64_t> numbers;
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    check(&sessions[i]->engine_ == &engine, "decode_batch: sessions of one engine");
    check(std::count(sessions.begin(), sessions.end(), sessions[i]) == 1, "decode_batch: different sessions");
    sessions[i]->check_decode(tokens[i]);
    numbers.push_back(sessions[i]->number_);
  }
  if (Leader* leader = engine.leader()) leader->decode(numbers, tokens);
  try {
    Session::Step step(sessions, tokens);
    if (engine.weights().has_decode_forms) {
      engine.backend().together([&] { step.run(); });
    } else {
      step.run();
    }
    step.finish(ms_since(start));
  } catch (const std::exception& error) {
    engine.stop_ranks(error);
    throw;
  }
}

}  // namespace winnow
