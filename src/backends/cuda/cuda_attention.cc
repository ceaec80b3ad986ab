#include "backends/cuda/cuda_attention.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "backends/cuda/cuda_planner.h"
#include "backends/cuda/cuda_row_choice.h"
#include "backends/cuda/device_buffer.h"
#include "backends/cuda/device_plan.h"
#include "core/check.h"

namespace winnow::cuda {
namespace {

constexpr std::int64_t kWindowLogits = std::int64_t{64} << 20;  // float32, of window_scores' working memory
constexpr std::int64_t kDenseBlock = 128;                       // of the full plan

CacheView cache_of(const LayerKv& kv) { return {kv.k.as<>(), kv.v.as<>(), kv.kv_heads, kv.head_dim}; }

bool without_gaps(std::span<const std::int64_t> rows) {
  return rows.back() - rows.front() + 1 == std::ssize(rows);
}

// Whether the window hides rows from any of the queries.
bool hides_rows(const SlidingWindow& window, std::span<const std::int64_t> query_rows) {
  return window.size > 0 && window.first_row(query_rows.back()) > 0;
}
std::vector<std::int64_t> first_rows(const SlidingWindow& window, std::span<const std::int64_t> query_rows) {
  std::vector<std::int64_t> first;
  for (const std::int64_t row : query_rows) first.push_back(window.first_row(row));
  return first;
}

std::int64_t aligned(std::int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

std::int64_t CudaAttention::heads_of(const MatrixView& q, const LayerKv& kv) const {
  const std::int64_t heads = q.cols / kv.head_dim;
  check(q.dtype == dtype_, "q is of the compute dtype");
  check(heads * kv.head_dim == q.cols && heads % kv.kv_heads == 0, "q has a multiple of kv_heads heads");
  return heads;
}

void CudaAttention::attention(const AttentionParams& asked) {
  AttentionParams p = asked;
  const LayerKv& kv = *p.kv;
  const std::int64_t heads = heads_of(p.q, kv);
  check(p.out.rows == p.q.rows && p.out.cols == p.q.cols && p.out.dtype == dtype_, "attention: out is as q");
  if (p.q.rows == 0) return;
  BlockAttentionParams blocks = dense_blocks(p, heads);
  std::vector<std::int64_t> chosen;
  if (p.chosen != nullptr) {
    check(p.chosen->count() == p.q.rows && p.plan == nullptr, "attention: the queries are those chosen");
    if (p.q.rows > 1 && p.window == 0 && supports_tensor_cores(blocks)) {
      steps_.flush();
      return attend_blocks(p, blocks);
    }
    chosen = static_cast<const CudaRowChoice*>(p.chosen)->cache_rows();
    p.query_rows = chosen;
    p.chosen = nullptr;
  }
  check(std::ssize(p.query_rows) == p.q.rows, "attention: a row for every query");
  check(p.query_rows.back() < kv.rows, "attention: the queries' rows are cached");
  if (p.q.rows == 1 && p.plan == nullptr && decode_attention_takes(heads, kv.kv_heads, kv.head_dim)) {
    return decode(p, heads);
  }
  steps_.flush();
  const SlidingWindow window = kv.window(p.window);
  const bool windowed = hides_rows(window, p.query_rows);
  check(p.plan == nullptr || !windowed, "attention: plans of windows are not made for this backend");
  if (p.plan != nullptr || (!windowed && supports_tensor_cores(blocks))) return attend_blocks(p, blocks);
  PlainAttentionArgs args{p.q.data, nullptr, cache_of(kv), p.out.data, p.q.rows,
                          heads,    nullptr, p.scale,      bf16()};
  std::vector<std::int64_t> rows(p.query_rows.begin(), p.query_rows.end());
  if (windowed) {  // in one piece: a second one could push the first out of the ring
    const std::vector<std::int64_t> first = first_rows(window, p.query_rows);
    rows.insert(rows.end(), first.begin(), first.end());
  }
  const std::int64_t* staged = device_.stage_as(rows.data(), std::ssize(rows));
  args.query_rows = staged;
  if (windowed) args.first_rows = staged + p.q.rows;
  if (bf16() && mma_attention_takes(kv.head_dim)) {
    return launch_mma_attention(args, p.query_rows.back(), device_.stream());
  }
  launch_plain_attention(args, device_.stream());
}

// All but the queries' rows, with the sizes of a full plan's blocks.
BlockAttentionParams CudaAttention::dense_blocks(const AttentionParams& p, std::int64_t heads) const {
  const LayerKv& kv = *p.kv;
  BlockAttentionParams blocks{
      .dtype = dtype_, .heads = heads, .kv_heads = kv.kv_heads, .head_dim = kv.head_dim};
  blocks.queries = p.q.rows;
  blocks.kv_rows = kv.rows;
  blocks.q = p.q.data;
  blocks.out = p.out.data;
  blocks.q_row_stride = blocks.out_row_stride = p.q.cols;
  blocks.k = kv.k.as<>();
  blocks.v = kv.v.as<>();
  blocks.kv_row_stride = kv.kv_heads * kv.head_dim;
  blocks.kv_head_stride = kv.head_dim;
  blocks.scale = p.scale;
  blocks.plan.q_block = blocks.plan.k_block = kDenseBlock;
  return blocks;
}

void CudaAttention::attend_blocks(const AttentionParams& p, BlockAttentionParams blocks) {
  const auto* held = p.plan != nullptr ? static_cast<const BlocksOnDevice*>(p.plan->held.get()) : nullptr;
  const std::int64_t plan_heads = p.plan != nullptr ? p.plan->heads : p.kv->kv_heads;
  const std::int64_t q_block = p.plan != nullptr ? p.plan->q_block : kDenseBlock,
                     k_block = p.plan != nullptr ? p.plan->k_block : kDenseBlock;
  blocks.plan = {.q_block = q_block,
                 .k_block = k_block,
                 .heads = plan_heads,
                 .query_blocks = block_count(p.q.rows, q_block),
                 .words = plan_words(p.kv->rows, k_block)};
  if (p.plan != nullptr) {
    const std::int64_t bits_bytes =
        aligned(plan_bits_bytes(plan_heads, blocks.plan.query_blocks, blocks.plan.words));
    auto* scratch = static_cast<std::byte*>(
        device_.scratch(bits_bytes + block_attention_workspace(blocks.heads, p.q.rows)));
    blocks.workspace = scratch + bits_bytes;
    if (held != nullptr) {
      blocks.plan.query_blocks = p.plan->query_blocks;
      blocks.plan.words = held->words;
      blocks.plan.listed = held->bits.as<std::uint32_t>();
    } else {
      blocks.plan =
          listed_device_plan(*p.plan, p.kv->rows, reinterpret_cast<std::uint32_t*>(scratch), device_);
    }
  }
  if (p.chosen != nullptr) {
    blocks.query_rows = static_cast<const CudaRowChoice*>(p.chosen)->rows();
  } else if (without_gaps(p.query_rows)) {
    blocks.first_row = p.query_rows.front();
  } else {
    const std::vector<std::int32_t> rows(p.query_rows.begin(), p.query_rows.end());
    blocks.query_rows = device_.stage_as(rows.data(), std::ssize(rows));
  }
  if (p.plan != nullptr && p.plan->means != nullptr) {
    const LayerKv& means = *p.plan->means;
    blocks.plan.mean_k = means.k.as<>();
    blocks.plan.mean_v = means.v.as<>();
    blocks.plan.means = means.rows;
    blocks.plan.mean_head_stride = means.rows * means.head_dim;
  }
  cuda::attend_blocks(blocks, device_.stream());
}

void CudaAttention::decode(const AttentionParams& p, std::int64_t heads) {
  const LayerKv& kv = *p.kv;
  const std::int64_t row = p.query_rows[0];
  const std::int32_t seen[2] = {static_cast<std::int32_t>(row),
                                static_cast<std::int32_t>(kv.window(p.window).first_row(row))};
  const std::int32_t* numbers = steps_.numbers(seen);
  const std::int64_t bytes = decode_scratch_bytes(heads, kv.head_dim, kv.capacity);
  if (bytes > decode_scratch_.bytes()) {
    steps_.flush();  // what is put off uses the old one
    decode_scratch_ = allocate_buffer(device_, bytes);
  }
  const DecodeAttentionArgs args{p.q.data,   numbers, cache_of(kv),
                                 p.out.data, heads,   kv.capacity,
                                 p.scale,    bf16(),  decode_scratch_.as<float>()};
  steps_.submit(key_of(5, args.q, args.seen, args.cache.k, args.cache.v, args.out, args.heads, args.capacity,
                       args.scale, args.partial),
                [args, stream = device_.stream()] { launch_decode_attention(args, stream); });
}

void CudaAttention::attention_probs(const AttentionProbsParams& p) {
  const LayerKv& kv = *p.kv;
  const std::int64_t heads = heads_of(p.q, kv), rows = p.q.rows;
  check(p.probs.rows == rows && p.probs.cols == kv.rows, "attention_probs: [rows, kv->rows]");
  if (rows == 0) return;
  steps_.flush();
  const std::int64_t bytes = rows * kv.rows * 4;
  auto* logits = static_cast<float*>(device_.scratch(bytes));
  launch_logits({p.q.data, p.q.cols, cache_of(kv), p.head, 1, p.head / (heads / kv.kv_heads), rows, kv.rows,
                 p.scale, logits, kv.rows, bf16()},
                device_.stream());
  std::vector<std::int64_t> limits = first_rows(kv.window(p.window), p.query_rows);
  limits.insert(limits.end(), p.query_rows.begin(), p.query_rows.end());
  const std::int64_t* staged = device_.stage_as(limits.data(), 2 * rows);
  launch_causal_softmax(logits, staged, staged + rows, rows, kv.rows, device_.stream());
  device_.download(p.probs.data, logits, bytes);
}

void CudaAttention::window_scores(const WindowScoresParams& p) {
  const std::int64_t asked = p.heads.empty() ? heads_of(p.q, *p.kv) : std::ssize(p.heads);
  check(std::ssize(p.scores) == (p.per_head ? asked : 1) * p.kv->rows,
        "window_scores: a score for every row");
  device_.download(p.scores.data(), scores_on_device(p), std::ssize(p.scores) * 4);
}

std::unique_ptr<RowChoice> CudaAttention::choose_rows(const RowChoiceParams& p) {
  check(!p.scoring.per_head, "choose_rows: heads choose together");
  const std::int64_t earlier = p.scoring.kv->rows - p.tokens;
  check(earlier >= 0, "choose_rows: the tokens are in the cache");
  return std::make_unique<CudaRowChoice>(p, scores_on_device(p.scoring) + earlier, device_);
}

// Logits of the heads asked, into rows of `stride` each; what they are still to be multiplied by.
float CudaAttention::logits(const WindowScoresParams& p, std::span<const std::int32_t> asked,
                            const void* packed, float* to, std::int64_t stride) {
  const LayerKv& kv = *p.kv;
  const std::int64_t dim = kv.head_dim, queries = p.q.rows, count = std::ssize(asked),
                     group = heads_of(p.q, kv) / kv.kv_heads;
  const auto end_of_kv_head = [&](std::int64_t i) {
    std::int64_t end = i + 1;
    while (end < count && asked[end] / group == asked[i] / group &&
           (packed != nullptr || asked[end] == asked[end - 1] + 1))
      ++end;
    return end;
  };
  for (std::int64_t i = 0; i < count;) {
    const std::int64_t kv_head = asked[i] / group;
    std::int64_t end = end_of_kv_head(i);
    const std::int64_t heads = end - i;
    float* own = to + i * queries * stride;
    if (packed == nullptr) {
      launch_logits({p.q.data, p.q.cols, cache_of(kv), asked[i], heads, kv_head, queries, kv.rows, p.scale,
                     own, stride, bf16()},
                    device_.stream());
    } else {  // with kv heads that follow and are asked as many heads of, in one product
      std::int64_t batch = 1;
      while (end < count && asked[end] / group == kv_head + batch && end_of_kv_head(end) - end == heads) {
        end += heads;
        ++batch;
      }
      matmul_.batched_logits({static_cast<const BF16*>(packed) + i * queries * dim,
                              kv.k.as<BF16>() + kv_head * dim, own, batch, heads * queries, kv.rows, dim,
                              kv.kv_heads * dim, stride});
    }
    i = end;
  }
  return packed == nullptr ? 1.0f : p.scale;
}

const float* CudaAttention::scores_on_device(const WindowScoresParams& p) {
  const LayerKv& kv = *p.kv;
  const std::int64_t heads = heads_of(p.q, kv), group = heads / kv.kv_heads, queries = p.q.rows,
                     dim = kv.head_dim;
  std::vector<std::int32_t> asked(p.heads.begin(), p.heads.end());
  if (asked.empty()) {
    asked.resize(static_cast<std::size_t>(heads));
    std::iota(asked.begin(), asked.end(), 0);
  }
  const std::int64_t count = std::ssize(asked);
  check(queries >= 1 && queries <= kv.rows, "window_scores: the window is in the cache");
  steps_.flush();
  // As many heads at a time as some working memory holds the logits of, whole kv heads if it can be.
  const std::int64_t stride = (kv.rows + 7) / 8 * 8, head_logits = queries * stride;
  std::int64_t at_once = std::clamp<std::int64_t>(kWindowLogits / head_logits, 1, count);
  if (at_once > group) at_once -= at_once % group;
  const std::int64_t floats = at_once * (head_logits + 2 * queries) + (count + 1) * kv.rows,
                     packed_at = aligned(floats * 4);
  auto* all = static_cast<float*>(device_.scratch(packed_at + count * queries * dim * 2));
  float *stats = all + at_once * head_logits, *means = stats + 2 * at_once * queries,
        *scores = means + count * kv.rows;
  BF16* packed = nullptr;
  if (bf16() && dim % 8 == 0) {
    packed = reinterpret_cast<BF16*>(reinterpret_cast<std::byte*>(all) + packed_at);
    launch_pack_heads(p.q.data, p.q.cols, p.heads.empty() ? nullptr : device_.stage_as(asked.data(), count),
                      packed, count, queries, dim, device_.stream());
  }
  std::vector<std::int64_t> query_rows(static_cast<std::size_t>(queries));
  std::iota(query_rows.begin(), query_rows.end(), kv.rows - queries);
  const SlidingWindow window = kv.window(p.sliding_window);
  const std::int64_t* first_seen = hides_rows(window, query_rows)
                                       ? device_.stage_as(first_rows(window, query_rows).data(), queries)
                                       : nullptr;
  for (std::int64_t first = 0; first < count; first += at_once) {
    const std::int64_t some = std::min(at_once, count - first);
    const float scale = logits(p, std::span(asked).subspan(first, some),
                               packed == nullptr ? nullptr : packed + first * queries * dim, all, stride);
    launch_window_means({all, stats, means + first * kv.rows, first_seen, some, queries, kv.rows, stride,
                         scale, p.queries == QueryReduction::kMax},
                        device_.stream());
  }
  if (p.per_head) return means;
  launch_reduce_heads(means, scores, count, kv.rows, p.reduction == HeadReduction::kMean, device_.stream());
  return scores;
}

}  // namespace winnow::cuda
