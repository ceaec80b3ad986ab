// A step of several sessions: each gets new rows in every layer's cache, one for a token that is decoded, as
// many as a prompt has that is read. One pass over the weights for the rows of all; attention goes to each
// one's cache.
#include "runtime/session_batch.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include "core/check.h"
#include "core/elapsed.h"
#include "core/error.h"
#include "runtime/ranks.h"
#include "runtime/working_cache.h"

namespace winnow {

class Session::Step {
 public:
  // On the weights' decode forms, or as a prefill computes. `memory` is for activations, and grows.
  Step(std::span<const Reading> readings, bool decode, Buffer& memory)
      : decode_(decode), first_(*readings[0].session), engine_(first_.engine_) {
    std::int64_t rows = 0;
    for (const Reading& reading : readings) {
      parts_.push_back({reading.session, reading.tokens, rows, std::ssize(reading.tokens), {}});
      rows += parts_.back().count;
    }
    const Architecture& arch = engine_.arch();
    Backend& backend = engine_.backend();
    const std::int64_t sessions = std::ssize(parts_);
    hidden_ = {nullptr, DType::kF32, rows, arch.model_dim};
    q_ = {nullptr, backend.compute_dtype(), rows, engine_.part_arch().q_dim()};
    logits_ = {nullptr, DType::kF32, sessions, engine_.part_arch().vocab};
    const std::int64_t hidden_bytes = padded_bytes(hidden_), q_bytes = padded_bytes(q_),
                       logits_bytes = sessions == 1 ? 0 : padded_bytes(logits_);
    if (memory.bytes() < hidden_bytes + q_bytes + logits_bytes) {
      memory = backend.allocate(hidden_bytes + q_bytes + logits_bytes);
    }
    hidden_.data = memory.as<>();
    q_.data = memory.as<>() + hidden_bytes;
    logits_.data = sessions == 1 ? first_.logits_row_.as<>() : memory.as<>() + hidden_bytes + q_bytes;
    if (sessions == 1 && backend.shares_host_memory() && engine_.ranks() == nullptr) {
      logits_.data = first_.logits_.data();
    }
    rows_.resize(static_cast<std::size_t>(rows));
    positions_.resize(static_cast<std::size_t>(rows));
    append_.reserve(parts_.size());
    attention_.reserve(parts_.size());
    for (const Reading& reading : readings) {  // what can fail must not fail between two layers
      make_room(reading);
      reading.session->prepare_rope(reading.session->next_position_ + std::ssize(reading.tokens));
    }
  }

  // False when `cancelled`, asked between layers, said so.
  bool run(const std::function<bool()>& cancelled) {
    const Range here = engine_.part().layers;
    if (here.contains(0)) {
      for (const Part& part : parts_) {
        embed(engine_.weights(), engine_.source(), engine_.arch(), engine_.backend(), part.tokens,
              part.session->next_position_, hidden_.slice(part.first, part.count));
      }
    }
    for (std::int64_t layer = 0; layer < engine_.arch().layers; ++layer) {
      if (first_.cancelled(cancelled)) return false;
      first_.hand_over(hidden_, layer);
      if (!here.contains(layer)) {
        pass_layer(layer);
        continue;
      }
      if (layer == here.begin && one_token()) engine_.backend().begin_step();
      run_layer(layer);
      if (layer + 1 < here.end()) continue;
      if (logits_.cols > 0) first_.logits_of(hidden_, logits_, decode_);
      if (one_token()) engine_.backend().end_step();
    }
    return true;
  }

  // After run(): the sessions have read their tokens.
  void finish(double ms) {
    const Architecture& arch = engine_.arch();
    const double lm_head_flops = 2.0 * static_cast<double>(arch.model_dim * arch.vocab);
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      Session& session = *parts_[i].session;
      if (logits_.data != session.logits_.data()) {
        first_.common_logits(logits_.slice(static_cast<std::int64_t>(i), 1), session.logits_.data());
      }
      PassStats& stats = decode_ ? session.decode_stats_ : session.prefill_stats_;
      stats.linear_flops += lm_head_flops;
      stats.ms += ms;
      if (decode_) {
        stats.linear_flops += static_cast<double>(arch.layers) * arch.layer_linear_flops();
        stats.weight_bytes += static_cast<double>(engine_.weights().decode_bytes);
      } else {
        session.attention_ = {};
      }
      session.next_position_ += std::ssize(parts_[i].tokens);
    }
  }

 private:
  // A session's rows in hidden_, q_, rows_ and positions_; in the last layer those that are needed for
  // logits.
  struct Part {
    Session* session;
    std::span<const TokenId> tokens;
    std::int64_t first, count;
    WorkingCache cache;  // of a prompt; attention is for all of them at once, so each has its own

    template <class T>
    std::span<T> of(std::vector<T>& values) const {
      return std::span(values).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    }
  };

  static std::int64_t padded_bytes(const MatrixView& view) {
    constexpr std::int64_t kAlignment = 256;
    return (view.rows * view.row_bytes() + kAlignment - 1) / kAlignment * kAlignment;
  }

  bool one_token() const { return decode_ && parts_.size() == 1; }

  void make_room(const Reading& reading) const {
    const std::int64_t tokens = std::ssize(reading.tokens);
    for (LayerKv& kv : reading.session->kv_) {
      const std::int64_t rows = kv.rows + tokens;
      const std::int64_t more =
          decode_ ? std::max<std::int64_t>(256, kv.capacity / 4) : reading.reserve_tokens;
      if (kv.here && rows > kv.capacity) engine_.backend().reserve(kv, rows + more);
      kv.positions.reserve(static_cast<std::size_t>(std::max(kv.capacity, rows)));
    }
  }

  // The new rows of a layer's cache, and their positions.
  void number_rows(const Part& part, std::int64_t layer) {
    const LayerKv& kv = part.session->kv_[layer];
    const std::span<std::int64_t> rows = part.of(rows_);
    const std::span<std::int32_t> positions = part.of(positions_);
    std::iota(rows.begin(), rows.end(), kv.rows);
    std::iota(positions.begin(), positions.end(), part.session->next_rope_position(kv));
  }

  // A layer of another rank: its rows are noted.
  void pass_layer(std::int64_t index) {
    for (const Part& part : parts_) {
      LayerKv& kv = part.session->kv_[index];
      number_rows(part, index);
      note_rows(kv, part.of(positions_));
      // Its rank may compute selected blocks alone: counted in full.
      count_work(part, index,
                 {.q = {},
                  .query_rows = part.of(rows_),
                  .kv = &kv,
                  .out = {},
                  .window = part.session->layer(index).window()});
    }
  }

  void run_layer(std::int64_t index) {
    const DecoderLayer step = first_.layer(index, decode_);
    const MatrixView qkv = step.project(hidden_);
    append_.clear();
    for (Part& part : parts_) {
      number_rows(part, index);
      const DecoderLayer own = part.session->layer(index);  // a session may have rope tables of its own
      LayerKv& kept = part.session->kv_[index];
      LayerKv& kv = decode_ ? kept : part.cache.open(engine_.backend(), kept, kept.rows + part.count);
      append_.push_back(own.append_params(qkv.slice(part.first, part.count), part.of(positions_),
                                          q_.slice(part.first, part.count), kv));
      if (!decode_) append_.back().q8 = q8_of(kept);
    }
    engine_.backend().rope_append_each(append_);
    if (index + 1 == engine_.arch().layers) keep_last_rows();
    attention_.clear();
    for (const Part& part : parts_) {
      Session& session = *part.session;
      const MatrixView q = q_.slice(part.first, part.count);
      const BlockPlan* plan = decode_ ? session.plan_decode(index, q, rows_[part.first]) : nullptr;
      const LayerKv& kept = session.kv_[index];
      attention_.push_back(
          step.attention_params(q, part.first, part.of(rows_), decode_ ? kept : part.cache.of(kept), plan));
      count_work(part, index, attention_.back());
    }
    step.attend_each(hidden_, attention_);
    step.feed_forward(hidden_);
  }

  // As in a prefill: once the last layer's keys and values exist, only every session's last row matters.
  void keep_last_rows() {
    if (hidden_.rows == std::ssize(parts_)) return;
    std::vector<std::int64_t> last;
    for (Part& part : parts_) {
      last.push_back(part.first + part.count - 1);
      const std::int64_t row = rows_[last.back()];
      part.first = std::ssize(last) - 1;
      part.count = 1;
      rows_[part.first] = row;
    }
    engine_.backend().keep_rows(hidden_, last);
    engine_.backend().keep_rows(q_, last);
    hidden_.rows = q_.rows = std::ssize(parts_);
  }

  void count_work(const Part& part, std::int64_t layer, const AttentionParams& attention) {
    const Architecture& arch = engine_.arch();
    const SlidingWindow window = attention.kv->window(attention.window);
    const double causal = visible_pairs(attention.query_rows, window);
    if (!decode_) {
      part.session->count_work({.layer = layer,
                                .rows = std::ssize(attention.query_rows),
                                .computed_pairs = causal,
                                .causal_pairs = causal,
                                .dense_chunks = 1},
                               std::ssize(part.tokens));
      return;
    }
    PassStats& stats = part.session->decode_stats_;
    const double pairs = attention.plan == nullptr
                             ? causal
                             : plan_work(*attention.plan, attention.query_rows, window).computed;
    const std::int64_t rows = attention.kv->rows;
    const std::int64_t bytes =
        engine_.backend().cache_bytes(attention.kv->type, arch.kv_heads, arch.head_dim, rows);
    stats.kv_bytes += static_cast<double>(bytes) * pairs / static_cast<double>(rows);
    stats.attention_flops += 4.0 * static_cast<double>(arch.q_dim()) * pairs;
    stats.attention_pairs += pairs;
    stats.causal_pairs += causal;
  }

  const bool decode_;
  Session& first_;
  const Engine& engine_;
  std::vector<Part> parts_;                 // [sessions]
  MatrixView hidden_, q_;                   // [rows, ...]
  MatrixView logits_;                       // [sessions, part's vocab]
  std::vector<std::int64_t> rows_;          // [rows] of this layer's caches
  std::vector<std::int32_t> positions_;     // [rows]
  std::vector<RopeAppendParams> append_;    // [sessions]
  std::vector<AttentionParams> attention_;  // [sessions]
};

std::vector<std::int64_t> Session::numbers_of(std::span<const Reading> readings) {
  std::vector<std::int64_t> numbers;
  for (const Reading& reading : readings) {
    const Session* session = reading.session;
    check(&session->engine_ == &readings[0].session->engine_, "a batch is of one engine's sessions");
    check(std::count_if(readings.begin(), readings.end(),
                        [&](const Reading& other) { return other.session == session; }) == 1,
          "a batch is of different sessions");
    numbers.push_back(session->number_);
  }
  return numbers;
}

void decode_batch(std::span<Session* const> sessions, std::span<const TokenId> tokens) {
  check(sessions.size() == tokens.size(), "decode_batch: one token a session");
  if (sessions.empty()) return;
  const auto start = std::chrono::steady_clock::now();
  const Engine& engine = sessions[0]->engine_;
  check(std::ssize(sessions) <= engine.backend().chunk_rows(),
        "decode_batch: no more sessions than chunk_rows()");
  std::vector<Reading> readings;
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    sessions[i]->check_decode(tokens[i]);
    readings.push_back({.session = sessions[i], .tokens = tokens.subspan(i, 1)});
  }
  const std::vector<std::int64_t> numbers = Session::numbers_of(readings);
  if (Leader* leader = engine.leader()) leader->decode(numbers, tokens);
  try {
    Session::Step step(readings, /*decode=*/true, sessions[0]->decode_memory_);
    if (engine.weights().has_decode_forms) {
      engine.backend().together([&] { step.run({}); });
    } else {
      step.run({});
    }
    step.finish(ms_since(start));
  } catch (const std::exception& error) {
    engine.stop_ranks(error);
    throw;
  }
}

bool prefill_batch(std::span<const Reading> readings, const std::function<bool()>& cancelled) {
  if (readings.empty()) return true;
  const auto start = std::chrono::steady_clock::now();
  const Engine& engine = readings[0].session->engine_;
  const std::vector<std::int64_t> numbers = Session::numbers_of(readings);
  const Policy dense;
  std::int64_t rows = 0;
  std::vector<Session::Mark> marks;
  for (const Reading& reading : readings) {
    reading.session->check_prompt(std::ssize(reading.tokens), dense);
    rows += std::ssize(reading.tokens);
    marks.push_back(reading.session->mark());
  }
  check(rows <= engine.backend().chunk_rows(), "prefill_batch: no more tokens than chunk_rows()");
  const auto forget = [&] {
    for (std::size_t i = 0; i < readings.size(); ++i) readings[i].session->go_back_to(marks[i]);
  };
  if (Leader* leader = engine.leader()) {
    leader->prefill_batch(numbers, readings, static_cast<bool>(cancelled));
  }
  const auto check_memory = [&] {
    // As one prompt of all rows; what is there in 8 bits is unpacked for all at once.
    std::int64_t reserved = 0, earlier_rows = 0;
    for (const Reading& reading : readings) {
      reserved += reading.reserve_tokens;
      earlier_rows += std::ranges::max(reading.session->kv_lens());
    }
    engine.check_prompt_fits(rows, reserved, dense, earlier_rows);
  };
  if (!readings[0].session->all_can(check_memory)) return false;
  try {
    for (const Reading& reading : readings) reading.session->begin_prompt(std::ssize(reading.tokens), dense);
    Buffer memory;
    Session::Step step(readings, /*decode=*/false, memory);
    if (!step.run(cancelled)) {
      forget();
      return false;
    }
    step.finish(ms_since(start));
  } catch (const std::exception& error) {
    forget();
    engine.stop_ranks(error);
    throw;
  }
  return true;
}

}  // namespace winnow
