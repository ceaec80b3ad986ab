// Session: one conversation's caches. prefill() reads tokens under a policy, decode() adds one token at a
// time, and a further prefill() continues the conversation on top of what is cached.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/decoder_layer.h"
#include "runtime/block_attention.h"
#include "runtime/dynamic_rope.h"
#include "runtime/engine.h"
#include "runtime/stats.h"
#include "sparsity/scorer.h"
#include "sparsity/token_pruner.h"

namespace winnow {

struct Reading;  // session_batch.h

struct PrefillOptions {
  std::int64_t reserve_tokens = 128;     // room in the caches for this many decoded tokens
  std::function<void(double)> progress;  // share done, 0..1; may be empty
  std::function<bool()>
      cancelled;  // asked between layers; true stops with caches and positions as before the call
  // Receives logits of every surviving row, chunk by chunk: (first row, [rows, vocab] float32). Costs a full
  // lm_head; for evaluation and tests. Empty: only the last token's logits are computed.
  std::function<void(std::int64_t, const MatrixView&)> all_logits;
  std::int64_t all_logits_from = 0;  // the first row that all_logits receives
  // Sees every chunk of every layer before its attention; all rows of the last layer are computed then. For
  // analysis. Empty: nothing is observed.
  std::function<void(const AttentionView&)> observe_attention;
  // Gives a stage's tokens their scores in place of the policy's scorer: (stage's layer, places in the
  // conversation [tokens], scores [tokens] out). For experiments (the scorer oracle). Empty: the policy's.
  std::function<void(std::int64_t, std::span<const std::int32_t>, std::span<float>)> stage_scores;
  // Told after every stage which tokens go on: its record but for what later stages do, and places in this
  // turn, ascending. Empty: nobody is told.
  std::function<void(const StageRecord&, std::span<const std::int32_t>)> on_stage;
};

class Session {
 public:
  explicit Session(const Engine& engine);
  ~Session();

  // Reads `tokens`; logits() are then those after the last one. Error(kBadArgument) for an empty prompt or
  // one longer than the context leaves room for, Error(kOutOfMemory) where a rank has too little for it.
  // False if cancelled, and on the other ranks where rank 0 throws these.
  bool prefill(std::span<const TokenId> tokens, const Policy& policy, const PrefillOptions& options);

  // Errors of prefill() that are known before it begins, without asking other ranks: kBadArgument,
  // kOutOfMemory.
  void check_prefill(std::int64_t tokens, const Policy& policy, std::int64_t reserve_tokens) const;

  // Appends one token to every layer's cache; prompt tokens are never pruned again.
  void decode(TokenId token);
  // Error(kBadArgument) when decode(token) would fail: the context is full, or there is no such token.
  void check_decode(TokenId token) const;

  const Engine& engine() const { return engine_; }
  std::span<const float> logits() const { return logits_; }  // [vocab]
  std::int64_t tokens() const { return next_position_; }     // read and decoded so far, pruned ones included
  std::int64_t room() const {
    return engine_.arch().context - next_position_;
  }                                                                   // tokens that still fit the context
  const std::vector<StageRecord>& stages() const { return stages_; }  // of the last prefill
  const PassStats& prefill_stats() const { return prefill_stats_; }   // of the last prefill
  const PassStats& decode_stats() const { return decode_stats_; }     // summed since then
  // What block selection did in each layer of the last prefill; empty when its policy had no selector.
  const std::vector<BlockRecord>& block_stats() const { return block_stats_; }
  std::vector<std::int64_t> kv_lens() const;  // cache rows by layer
  std::int64_t kv_bytes() const;
  // Every layer caches every token read: nothing was pruned.
  bool complete() const;
  // A session of its own that has read what this one has: both go on independently.
  std::unique_ptr<Session> copy() const;
  // The same, but it has read the first `tokens` tokens only, at least one. complete() must hold; its
  // logits() say nothing before it has read or decoded more.
  std::unique_ptr<Session> copy_prefix(std::int64_t tokens) const;
  // copy() into a session that has read nothing; and forgetting all but the first `tokens` tokens.
  void copy_to(Session& other) const;
  void cut_to(std::int64_t tokens);
  // Keeps only the rows listed (ascending) of a layer's cache.
  void keep_rows(std::int64_t layer, std::span<const std::int64_t> rows);
  // Memory it holds: caches with the room they have, and working memory.
  std::int64_t memory_bytes() const;
  // Rotary positions of a layer's cache rows: with original positions, the places in the conversation of the
  // tokens that reached it.
  std::span<const std::int32_t> cached_positions(std::int64_t layer) const { return kv_[layer].positions; }

 private:
  struct Turn;    // one prefill under way (prefill.cc)
  struct Choice;  // of its last stage, on its way to the host
  friend class SessionFile;
  class Step;  // of several sessions, under way (session_batch.cc)
  friend void decode_batch(std::span<Session* const> sessions, std::span<const TokenId> tokens);
  friend bool prefill_batch(std::span<const Reading> readings, const std::function<bool()>& cancelled);
  // On rank 0. They must be different sessions of one engine.
  static std::vector<std::int64_t> numbers_of(std::span<const Reading> readings);

  // What a prompt that is not read to its end leaves as it was.
  struct Mark {
    std::vector<std::int64_t> rows;  // [layers] of the caches
    PositionMode positions{};
  };
  Mark mark() const { return {kv_lens(), positions_}; }
  void go_back_to(const Mark& mark);
  void begin_prompt(std::int64_t tokens, const Policy& policy);
  bool run_layers(Turn& turn);                               // false: cancelled
  std::vector<std::int32_t> places(const Turn& turn) const;  // in the conversation, of the tokens alive
  void show_attention(Turn& turn, std::int64_t layer);       // to a scorer that watches it
  void prune(Turn& turn, const Stage& stage);
  void share_scores(const Turn& turn, const Stage& stage, std::span<float> scores) const;
  bool choose_without_host(Turn& turn, const Stage& stage, const ScorerInput& input) const;
  void settle(Turn& turn);
  void keep(Turn& turn, StageRecord record, std::span<const std::int64_t> kept);
  std::optional<double> finish_unseen(const Turn& turn, std::int64_t layer) const;
  void finish_layer(Turn& turn, std::int64_t layer);
  void count_work(const Turn& turn);
  // A layer that `entered` of the prompt's tokens entered; before they count as read.
  void count_work(const BlockRecord& record, std::int64_t entered);
  void log_gate();
  const BlockPlan* plan_decode(std::int64_t layer, const MatrixView& q, std::int64_t row);
  // What all ranks agree on (session_ranks.cc): what rank 0 was told, or measured; what a layer's rank
  // did. hand_over(): hidden states go to the rank that has `layer` from that of the layer before.
  // Runs what may fail on some ranks alone, before any has begun. Where one throws, rank 0 throws its Error
  // and the others return false: nothing has happened.
  bool all_can(const std::function<void()>& prepare) const;
  bool cancelled(const std::function<bool()>& asked) const;
  std::optional<AttentionCosts> common_costs(const AttentionPolicy& attention) const;
  void hand_over(const MatrixView& hidden, std::int64_t layer) const;
  BlockRecord common_record(BlockRecord record) const;
  // What rope_append() does to a cache, for one whose keys and values another rank has.
  static void note_rows(LayerKv& kv, std::span<const std::int32_t> positions);
  bool has_layer(std::int64_t layer) const { return engine_.part().layers.contains(layer); }
  // logits [rows, vocab] of the host: on rank 0 those of all ranks' parts of the vocabulary, elsewhere of its
  // own.
  void common_logits(const MatrixView& part, float* logits) const;
  void compute_logits(const Turn& turn);
  void cut_caches_to_survivors(const Turn& turn);
  // The same on every rank; and as things are on this one.
  void check_prompt(std::int64_t tokens, const Policy& policy) const;
  void check_memory(std::int64_t tokens, const Policy& policy, std::int64_t reserve_tokens) const;
  void logits_of(const MatrixView& hidden, const MatrixView& logits, bool decode = false);
  void last_logits_of(const MatrixView& hidden);  // [1, model_dim] -> logits_row_
  std::int32_t next_rope_position(const LayerKv& kv) const;
  // Before a call's rows are rotated: the conversation will have `tokens` tokens after it.
  void prepare_rope(std::int64_t tokens);
  DecoderLayer layer(std::int64_t index, bool decode = false) const;
  float attention_scale() const;

  const Engine& engine_;
  std::int64_t number_ = -1;                   // among rank 0's sessions, where there are ranks
  std::vector<LayerKv> kv_;                    // [layers]
  std::unique_ptr<DynamicRope> dynamic_rope_;  // null: the engine's tables
  PositionMode positions_ = PositionMode::kOriginal;
  std::int64_t next_position_ = 0;
  std::vector<float> logits_;
  Buffer logits_row_;  // [part's vocab] float32, the backend's
  std::vector<StageRecord> stages_;
  std::vector<BlockRecord> block_stats_;
  bool gate_logged_ = false;
  PassStats prefill_stats_, decode_stats_;
  // Decoding over selected blocks, as the last prefill's policy says.
  AttentionPolicy attention_;
  std::vector<std::unique_ptr<BlockPlanner>> decode_planners_;  // [layers], made by the first step
  BlockPlan decode_plan_;
  const Workspace& workspace_;  // the engine's: sessions take turns
  // Activations of a step, for the sessions of the largest batch this one was first in.
  Buffer decode_memory_;
};

}  // namespace winnow
