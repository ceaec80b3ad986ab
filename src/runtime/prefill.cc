// Prefill: the main path. One loop over the layers; at a stage, tokens are scored and only the kept ones go
// on. Dense is the same loop with no stage.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "core/elapsed.h"
#include "runtime/block_attention.h"
#include "runtime/kv_choice.h"
#include "runtime/prefill_plan.h"
#include "runtime/ranks.h"
#include "runtime/session.h"
#include "runtime/working_cache.h"
#include "sparsity/learned_scorer.h"

namespace winnow {
namespace {

// What keep_rows() does to a cache, for one whose keys and values another rank has.
void note_kept_rows(LayerKv& kv, std::span<const std::int64_t> rows) {
  for (std::size_t i = 0; i < rows.size(); ++i) kv.positions[i] = kv.positions[rows[i]];
  kv.positions.resize(rows.size());
  kv.rows = std::ssize(rows);
}

// Of at most `most` rows at a time, the fewest pieces, and these as even as whole steps make them: the last
// of 8,589 rows would be short and slow on a GPU. Pieces of one step stay what they are.
std::int64_t even_chunk(std::int64_t rows, std::int64_t most) {
  constexpr std::int64_t kStep = 512;
  const std::int64_t pieces = (rows + most - 1) / most, even = (rows + pieces - 1) / pieces;
  return std::min(most, (even + kStep - 1) / kStep * kStep);
}

}  // namespace

// What a backend chose at a stage; `rows` null: nothing that the host does not know.
struct Session::Choice {
  const Stage* stage = nullptr;
  std::unique_ptr<RowChoice> rows;
  double issue_ms = 0;  // its own time, not that of the layer that may be issued before it is waited for
};

// The tokens of one prefill that are still alive, and what they carry from layer to layer.
struct Session::Turn {
  Turn(const Policy& policy_in, const PrefillOptions& options_in)
      : policy(policy_in), options(options_in), next_stage(policy_in.tokens.stages.begin()) {}

  const Policy& policy;
  const PrefillOptions& options;
  std::int64_t prompt_tokens = 0;
  std::int64_t first_position = 0;      // of the turn's first token
  Mark before;                          // what earlier turns left
  std::unique_ptr<Scorer> scorer;       // null when nothing is pruned, or the caller scores
  std::optional<AttentionCosts> costs;  // none: blocks are skipped without asking what it costs
  std::vector<Stage>::const_iterator next_stage;
  Choice choice;  // of the stage before, until settle()

  std::vector<std::int32_t> alive;  // ascending; indices into the turn's tokens
  std::vector<std::vector<std::int32_t>>
      cached;                      // [layers] the tokens whose rows a layer cached (kv: final only)
  Buffer hidden, q;                // [prompt_tokens, model_dim] float32, [prompt_tokens, q_dim] compute dtype
  MatrixView hidden_view, q_view;  // of the tokens alive
  std::vector<std::int64_t> query_rows;  // [alive] this layer's cache rows of the tokens alive
  std::vector<LayerWork> layers;         // done so far
  WorkingCache cache;                    // of the layer at work

  bool scores_need_hidden() const { return scorer && scorer->needs_hidden(); }
  bool stage_at(std::int64_t layer) const {
    return next_stage != policy.tokens.stages.end() && next_stage->layer == layer;
  }
};

bool Session::prefill(std::span<const TokenId> tokens, const Policy& policy, const PrefillOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const Architecture& arch = engine_.arch();
  Backend& backend = engine_.backend();
  const auto count = static_cast<std::int64_t>(tokens.size());
  check_prompt(count, policy);
  if (engine_.ranks() != nullptr && options.observe_attention) {
    fail(ErrorCode::kUnsupported,
         "looking into attention needs all of it on one device: leave --devices out");
  }

  Turn turn(policy, options);
  turn.prompt_tokens = count;
  turn.first_position = next_position_;
  turn.before = mark();
  if (Leader* leader = engine_.leader()) leader->prefill(number_, tokens, policy, options);
  const auto prepare = [&] {
    check_memory(count, policy, options.reserve_tokens);
    if (!policy.prunes() || options.stage_scores) return;
    check_scorer_model(policy.tokens, arch.shape_hash());
    turn.scorer = make_scorer(policy.tokens, arch.model_dim, backend);
  };
  if (!all_can(prepare)) return false;
  try {  // whatever fails from here on, the other ranks are in the same prefill and would wait
    turn.costs = common_costs(policy.attention);
    turn.alive.resize(tokens.size());
    std::iota(turn.alive.begin(), turn.alive.end(), 0);
    turn.hidden = backend.allocate(count * arch.model_dim * 4);
    const std::int64_t q_dim = engine_.part_arch().q_dim();
    turn.q = backend.allocate(count * dtype_bytes(backend.compute_dtype(), q_dim));
    turn.hidden_view = {turn.hidden.as<>(), DType::kF32, count, arch.model_dim};
    turn.q_view = {turn.q.as<>(), backend.compute_dtype(), count, q_dim};
    if (has_layer(0)) {
      embed(engine_.weights(), engine_.source(), arch, backend, tokens, turn.first_position,
            turn.hidden_view);
    }

    begin_prompt(count, policy);
    prepare_rope(next_position_ + count);
    if (!run_layers(turn)) {
      go_back_to(turn.before);
      return false;
    }
    compute_logits(turn);
    count_work(turn);
    if (policy.tokens.kv == KvMode::kFinal) cut_caches_to_survivors(turn);
  } catch (const std::exception& error) {
    go_back_to(turn.before);
    engine_.stop_ranks(error);
    throw;
  }
  next_position_ += count;
  attention_ = policy.attention;
  prefill_stats_.ms = ms_since(start);
  log_gate();
  return true;
}

bool Session::run_layers(Turn& turn) {
  const Architecture& arch = engine_.arch();
  Backend& backend = engine_.backend();
  for (std::int64_t i = 0; i < arch.layers; ++i) {
    if (cancelled(turn.options.cancelled)) return false;
    if (turn.options.progress)
      turn.options.progress(static_cast<double>(i) / static_cast<double>(arch.layers));
    if (turn.stage_at(i)) {
      prune(turn, *turn.next_stage++);
      settle(turn);
    }
    hand_over(turn.hidden_view, i);

    const auto rows = static_cast<std::int64_t>(turn.alive.size());
    if (kv_[i].here) backend.reserve(kv_[i], kv_[i].rows + rows + turn.options.reserve_tokens);
    LayerKv& kv = turn.cache.open(backend, kv_[i], kv_[i].rows + rows);
    std::vector<std::int32_t> positions(turn.alive);
    if (positions_ == PositionMode::kCompact) std::iota(positions.begin(), positions.end(), 0);
    const std::int32_t first_position = next_rope_position(kv);
    for (std::int32_t& position : positions) position += first_position;
    turn.query_rows.resize(turn.alive.size());
    std::iota(turn.query_rows.begin(), turn.query_rows.end(), kv.rows);
    if (turn.policy.tokens.kv == KvMode::kFinal) turn.cached.push_back(turn.alive);

    if (!kv.here) note_rows(kv, positions);
    const DecoderLayer step = layer(i);
    const std::int64_t chunk_rows = even_chunk(rows, backend.chunk_rows());
    for (std::int64_t begin = 0; kv.here && begin < rows; begin += chunk_rows) {
      const std::int64_t chunk = std::min(chunk_rows, rows - begin);
      step.project_qkv(turn.hidden_view.slice(begin, chunk), std::span(positions).subspan(begin, chunk),
                       turn.q_view.slice(begin, chunk), kv, q8_of(kv_[i]));
    }
    if (turn.scorer && turn.scorer->watches(i)) show_attention(turn, i);
    // A scorer that looks at attention alone has all it needs now: tokens it drops need not even finish this
    // layer.
    if (turn.stage_at(i + 1) && !turn.scores_need_hidden()) prune(turn, *turn.next_stage++);
    if (kv.here) {
      finish_layer(turn, i);
    } else {
      turn.layers.push_back({{.layer = i}, {}});
    }
  }
  if (turn.options.progress) turn.options.progress(1.0);
  return !cancelled(turn.options.cancelled);  // which may be what it said to 1.0
}

std::vector<std::int32_t> Session::places(const Turn& turn) const {
  std::vector<std::int32_t> places(turn.alive);
  for (std::int32_t& place : places) place += static_cast<std::int32_t>(turn.first_position);
  return places;
}

void Session::show_attention(Turn& turn, std::int64_t index) {
  const std::vector<std::int32_t> positions = places(turn);
  turn.scorer->watch(index, {.layer = index + 1,
                             .positions = positions,
                             .kv = &turn.cache.of(kv_[index]),
                             .q = turn.q_view,
                             .attention_scale = attention_scale(),
                             .attention_window = layer(index).window(),
                             .hidden = {}});
}

// Scores the tokens alive and keeps those the stage selects: hidden states, queries and cache rows move up,
// order stays.
void Session::prune(Turn& turn, const Stage& stage) {
  const auto start = std::chrono::steady_clock::now();
  const std::int64_t count = turn.hidden_view.rows;
  const std::vector<std::int32_t> positions = places(turn);
  const ScorerInput input{.layer = stage.layer,
                          .positions = positions,
                          .kv = &turn.cache.of(kv_[stage.layer - 1]),
                          .q = turn.q_view,
                          .attention_scale = attention_scale(),
                          .attention_window = layer(stage.layer - 1).window(),
                          .hidden = turn.hidden_view};
  if (choose_without_host(turn, stage, input)) return;
  std::vector<float> scores(turn.alive.size());
  if (turn.options.stage_scores) {
    turn.options.stage_scores(stage.layer, positions, scores);
  } else {
    turn.scorer->score(input, scores);
  }
  share_scores(turn, stage, scores);
  StageRecord record;
  const std::vector<std::int64_t> kept = select_tokens(scores, stage, turn.policy.tokens, record);
  if (std::ssize(kept) < count && has_layer(stage.layer - 1)) {
    engine_.backend().keep_rows(turn.hidden_view, kept);
    engine_.backend().keep_rows(turn.q_view, kept);
  }
  record.scoring_ms = ms_since(start);
  keep(turn, record, kept);
}

// What is left to do once a stage's tokens are known and have moved.
void Session::keep(Turn& turn, StageRecord record, std::span<const std::int64_t> kept) {
  record.cumulative_ratio = static_cast<double>(kept.size()) / static_cast<double>(turn.prompt_tokens);
  stages_.push_back(record);
  if (turn.options.on_stage) {
    std::vector<std::int32_t> places;
    for (const std::int64_t index : kept) places.push_back(turn.alive[static_cast<std::size_t>(index)]);
    turn.options.on_stage(record, places);
  }

  turn.hidden_view.rows = turn.q_view.rows = std::ssize(kept);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    turn.alive[i] = turn.alive[kept[i]];
    turn.query_rows[i] = turn.query_rows[kept[i]];
  }
  turn.alive.resize(kept.size());
  turn.query_rows.resize(kept.size());
}

// Over ranks, tokens are chosen once: every rank keeps what the scores of the layer's rank say, or the
// caller's on rank 0.
void Session::share_scores(const Turn& turn, const Stage& stage, std::span<float> scores) const {
  if (engine_.ranks() == nullptr) return;
  const int root = turn.options.stage_scores ? 0 : rank_of_layer(engine_.parts(), stage.layer - 1);
  engine_.ranks()->broadcast(std::as_writable_bytes(scores), root);
}

// By a backend that chooses where the rows are: they move, and their layer may be finished, while the choice
// is on its way to the host. False: this stage's tokens are chosen by the host.
bool Session::choose_without_host(Turn& turn, const Stage& stage, const ScorerInput& input) const {
  if (turn.options.stage_scores || stage.top_p || engine_.ranks() != nullptr) return false;
  const auto start = std::chrono::steady_clock::now();
  const std::int64_t count = turn.hidden_view.rows;
  auto rows = turn.scorer->choose(input, stage_counts(count, stage, turn.policy.tokens));
  if (rows == nullptr) return false;
  if (rows->count() < count) {
    engine_.backend().keep_rows(turn.hidden_view, *rows);
    engine_.backend().keep_rows(turn.q_view, *rows);
  }
  turn.choice = {&stage, std::move(rows), ms_since(start)};
  return true;
}

// Waits for the tokens a backend chose.
void Session::settle(Turn& turn) {
  const Choice choice = std::exchange(turn.choice, {});
  if (choice.rows == nullptr) return;
  const auto start = std::chrono::steady_clock::now();
  const ChosenRows chosen = choice.rows->wait();
  StageRecord record = record_choice(chosen, turn.hidden_view.rows, *choice.stage);
  record.scoring_ms = choice.issue_ms + ms_since(start);
  keep(turn, record, chosen.rows);
}

// The layer of a backend's choice, for tokens that the host does not know yet, where nothing asks for them:
// the backend has work until it does. How long attention took; nullopt: not done.
std::optional<double> Session::finish_unseen(const Turn& turn, std::int64_t index) const {
  const RowChoice* chosen = turn.choice.rows.get();
  if (chosen == nullptr || !turn.policy.attention.dense() || turn.options.observe_attention ||
      index == engine_.arch().layers - 1 || chosen->count() > engine_.backend().chunk_rows()) {
    return std::nullopt;
  }
  const DecoderLayer step = layer(index);
  const MatrixView hidden = turn.hidden_view.slice(0, chosen->count());
  const auto start = std::chrono::steady_clock::now();
  step.attend(hidden, turn.q_view.slice(0, chosen->count()), *chosen, turn.cache.of(kv_[index]));
  const double ms = ms_since(start);
  step.feed_forward(hidden);
  return ms;
}

// Attention and ffn for the tokens alive. After the last layer's keys and values only the last token matters,
// unless all logits are wanted.
void Session::finish_layer(Turn& turn, std::int64_t index) {
  const std::optional<double> unseen_ms = finish_unseen(turn, index);
  settle(turn);
  const Architecture& arch = engine_.arch();
  const auto rows = static_cast<std::int64_t>(turn.alive.size());
  const bool last_token_only =
      index == arch.layers - 1 && !turn.options.all_logits && !turn.options.observe_attention;
  const DecoderLayer step = layer(index);
  const LayerKv& kv = turn.cache.of(kv_[index]);
  const std::span<const std::int64_t> query_rows(turn.query_rows);
  const std::int64_t first = last_token_only ? rows - 1 : 0,
                     chunk_rows = even_chunk(rows - first, engine_.backend().chunk_rows());
  LayerPlanner planner(turn.policy.attention, turn.costs ? &*turn.costs : nullptr, engine_.backend(),
                       {index, turn.q_view, query_rows, &kv, attention_scale(), step.window()}, rows - first);
  for (std::int64_t begin = first; begin < rows; begin += chunk_rows) {
    const std::int64_t chunk = std::min(chunk_rows, rows - begin);
    const MatrixView hidden = turn.hidden_view.slice(begin, chunk), q = turn.q_view.slice(begin, chunk);
    const std::span<const std::int64_t> rows_of_chunk = query_rows.subspan(begin, chunk);
    if (turn.options.observe_attention) {
      turn.options.observe_attention({index, q, rows_of_chunk, &kv, attention_scale(), step.window()});
    }
    const BlockPlan* plan = planner.plan(q, rows_of_chunk);
    if (unseen_ms) {  // in one chunk, and without a plan
      planner.add_attention_ms(*unseen_ms);
      break;
    }
    const auto start = std::chrono::steady_clock::now();
    step.attend(hidden, q, rows_of_chunk, kv, plan);
    planner.add_attention_ms(ms_since(start));
    step.feed_forward(hidden);
  }
  turn.layers.push_back(planner.work());
}

// Once all ops are issued: what a backend counts is there by then.
void Session::count_work(const Turn& turn) {
  for (const LayerWork& work : turn.layers) {
    const BlockRecord record = common_record(work.record());
    if (!turn.policy.attention.dense()) block_stats_.push_back(record);
    count_work(record, kv_[record.layer].rows - turn.before.rows[record.layer]);
  }
}

void Session::count_work(const BlockRecord& record, std::int64_t entered) {
  const Architecture& arch = engine_.arch();
  const auto finished = static_cast<double>(record.rows);
  const double qkv_flops = 2.0 * static_cast<double>(arch.model_dim * arch.qkv_dim());
  prefill_stats_.layer_tokens += static_cast<double>(entered);
  prefill_stats_.linear_flops +=
      static_cast<double>(entered) * qkv_flops + finished * (arch.layer_linear_flops() - qkv_flops);
  prefill_stats_.attention_flops += 4.0 * static_cast<double>(arch.q_dim()) * record.computed_pairs;
  prefill_stats_.attention_pairs += record.computed_pairs;
  prefill_stats_.causal_pairs += record.causal_pairs;
  prefill_stats_.plan_ms += record.plan_ms;
  prefill_stats_.sparse_chunks += record.sparse_chunks;
  prefill_stats_.dense_chunks += record.dense_chunks;
  const std::int64_t window = layer(record.layer).window(), first = next_position_ + 1,
                     last = next_position_ + prefill_stats_.prompt_tokens;
  // Of the positions first..last, those up to the window's size see all before them, the others the window.
  const std::int64_t growing = window == 0 ? last : std::clamp(window, first - 1, last);
  prefill_stats_.dense_attention_pairs +=
      static_cast<double>(first + growing) / 2 * static_cast<double>(growing + 1 - first) +
      static_cast<double>(last - growing) * static_cast<double>(window);
}

// Once a session: the records say it for every layer of every turn.
void Session::log_gate() {
  const auto gated = std::find_if(block_stats_.begin(), block_stats_.end(), [](const BlockRecord& record) {
    return record.gated == DenseReason::kShort || record.gated == DenseReason::kTooDense;
  });
  if (gated == block_stats_.end() || std::exchange(gate_logged_, true)) return;
  spdlog::debug(
      "attention in full where skipping blocks would not be faster: {} of {} chunks ({} in layer {})",
      prefill_stats_.dense_chunks, prefill_stats_.dense_chunks + prefill_stats_.sparse_chunks,
      dense_reason_name(gated->gated), gated->layer);
}

void Session::compute_logits(const Turn& turn) {
  const Architecture& arch = engine_.arch();
  Backend& backend = engine_.backend();
  const std::int64_t rows = turn.hidden_view.rows;
  if (turn.options.all_logits) {
    constexpr std::int64_t kLogitRows = 64;
    const std::int64_t part_vocab = engine_.part_arch().vocab;
    const Buffer buffer = backend.allocate(std::min(rows, kLogitRows) * part_vocab * 4);
    Buffer all;  // where they are put together
    if (engine_.ranks() != nullptr) all = Buffer::host(std::min(rows, kLogitRows) * arch.vocab * 4);
    Buffer copy;
    for (std::int64_t begin = turn.options.all_logits_from; begin < rows; begin += kLogitRows) {
      const std::int64_t chunk = std::min(kLogitRows, rows - begin);
      const MatrixView logits{buffer.as<>(), DType::kF32, chunk, part_vocab};
      if (part_vocab > 0) logits_of(turn.hidden_view.slice(begin, chunk), logits);
      if (engine_.ranks() == nullptr) {
        turn.options.all_logits(begin, on_host(backend, logits, copy));
      } else {
        common_logits(logits, all.as<float>());
        turn.options.all_logits(begin, {all.as<>(), DType::kF32, chunk, arch.vocab});
      }
    }
  }
  const MatrixView last{logits_row_.as<>(), DType::kF32, 1, engine_.part_arch().vocab};
  if (last.cols > 0) last_logits_of(turn.hidden_view.slice(rows - 1, 1));
  common_logits(last, logits_.data());
  prefill_stats_.linear_flops +=
      2.0 * static_cast<double>(arch.model_dim * arch.vocab) *
      static_cast<double>(turn.options.all_logits ? rows - turn.options.all_logits_from : 1);
}

// `kv: final`: of this turn's rows, every layer keeps those of the tokens that survived the last stage.
void Session::cut_caches_to_survivors(const Turn& turn) {
  for (std::int64_t i = 0; i < engine_.arch().layers; ++i) {
    std::vector<std::int64_t> rows(static_cast<std::size_t>(turn.before.rows[i]));
    std::iota(rows.begin(), rows.end(), 0);
    const std::vector<std::int32_t>& cached = turn.cached[i];
    auto survivor = turn.alive.begin();
    for (std::size_t row = 0; row < cached.size() && survivor != turn.alive.end(); ++row) {
      if (cached[row] != *survivor) continue;
      rows.push_back(turn.before.rows[i] + static_cast<std::int64_t>(row));
      ++survivor;
    }
    if (static_cast<std::int64_t>(rows.size()) == kv_[i].rows) continue;
    if (!kv_[i].here) {
      note_kept_rows(kv_[i], rows);
      continue;
    }
    engine_.backend().keep_rows(kv_[i], rows);
    engine_.backend().reserve(kv_[i], kv_[i].rows + turn.options.reserve_tokens);
  }
}

void Session::begin_prompt(std::int64_t tokens, const Policy& policy) {
  positions_ = policy.tokens.positions;
  stages_.clear();
  block_stats_.clear();
  for (auto& planner : decode_planners_) planner.reset();  // caches may lose rows before the next step
  prefill_stats_ = {.prompt_tokens = tokens, .layers = engine_.arch().layers};
  decode_stats_ = {};
}

void Session::go_back_to(const Mark& mark) {
  positions_ = mark.positions;
  for (std::size_t i = 0; i < kv_.size(); ++i) {
    kv_[i].rows = mark.rows[i];
    kv_[i].positions.resize(static_cast<std::size_t>(kv_[i].rows));
  }
}

void Session::check_prefill(std::int64_t tokens, const Policy& policy, std::int64_t reserve_tokens) const {
  check_prompt(tokens, policy);
  check_memory(tokens, policy, reserve_tokens);
}

void Session::check_prompt(std::int64_t tokens, const Policy& policy) const {
  if (tokens == 0) fail(ErrorCode::kBadArgument, "the prompt is empty: give at least one token");
  if (policy.prunes() && policy.tokens.protect_tail_min < 1) {
    fail(ErrorCode::kBadArgument,
         "policy {}: protect_tail.min must be at least 1: the answer begins after the last token",
         policy.name);
  }
  if (policy.tokens.positions == PositionMode::kCompact && engine_.arch().rope_theta == 0) {
    fail(ErrorCode::kUnsupported,
         "policy {}: positions compact needs rotary embeddings; {} adds learned positions before the first "
         "layer",
         policy.name, engine_.arch().name);
  }
  check_policy_fits_caches(policy, engine_.kv_type());
  const std::int64_t context = engine_.arch().context;
  if (tokens > room()) {
    fail(ErrorCode::kBadArgument, "the prompt has {} tokens{}, the model's context is {}: shorten it by {}",
         tokens, next_position_ == 0 ? "" : fmt::format(" after {} already read", next_position_), context,
         tokens - room());
  }
}

void Session::check_memory(std::int64_t tokens, const Policy& policy, std::int64_t reserve_tokens) const {
  engine_.check_prompt_fits(tokens, reserve_tokens, policy, std::ranges::max(kv_lens()));
}

}  // namespace winnow
