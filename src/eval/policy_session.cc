#include "eval/policy_session.h"

#include <limits>
#include <optional>

#include "core/check.h"
#include "eval/attention_sums.h"

namespace winnow {

bool PolicySession::read(std::span<const TokenId> prompt, const Oracle* oracle, std::int64_t reserve_tokens,
                         const std::function<bool()>& cancelled) {
  PrefillOptions options;
  options.reserve_tokens = reserve_tokens;
  options.cancelled = cancelled;
  if (policy_.oracle()) {
    check(oracle != nullptr, "policy session: the oracle's scores");
    options.stage_scores = [&](std::int64_t layer, std::span<const std::int32_t> positions,
                               std::span<float> scores) {
      oracle->score(layer, positions, policy_.policy.tokens.recency_mix, scores);
    };
  }
  std::optional<AttentionSums> sums;
  if (policy_.eviction) {
    const bool snapkv = policy_.eviction->kind == EvictionKind::kSnapKv;
    sums.emplace(engine_, snapkv ? policy_.eviction->window : std::numeric_limits<std::int64_t>::max());
    options.observe_attention = [&](const AttentionView& view) { sums->add(view); };
  }
  if (!session_.prefill(prompt, policy_.policy, options)) return false;
  if (sums) evict(*sums);

  const PassStats& stats = session_.prefill_stats();
  std::int64_t rows = 0;
  for (const std::int64_t length : session_.kv_lens()) rows += length;
  const auto full = static_cast<double>(stats.dense_chunks),
             sparse = static_cast<double>(stats.sparse_chunks);
  facts_ = {
      .ms = stats.ms,
      .avgtok = stats.avgtok(),
      .density = stats.density(),
      .attn_work = stats.attn_work(),
      .kv_share = static_cast<double>(rows) / static_cast<double>(engine_.arch().layers * std::ssize(prompt)),
      .gated = policy_.policy.attention.dense() || full + sparse == 0 ? 0 : full / (full + sparse)};
  return true;
}

void PolicySession::evict(const AttentionSums& sums) {
  const std::vector<std::int64_t> cached = session_.kv_lens();
  for (std::int64_t layer = 0; layer < std::ssize(cached); ++layer) {
    const std::vector<float> scores = sums.mean_over_heads(layer);
    check(std::ssize(scores) == cached[static_cast<std::size_t>(layer)],
          "policy session: a score for each cached row");
    session_.keep_rows(layer, rows_that_stay(*policy_.eviction, scores));
  }
}

}  // namespace winnow
