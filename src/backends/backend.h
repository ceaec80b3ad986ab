// Backend: the operations a decoder layer is made of, on whole matrices.
//
// Called by model/ and sparsity/ only; knows nothing about layers, policies or files. Implementations:
// `reference` (scalar, double accumulation: the oracle of every op), `cpu` (oneDNN GEMMs and SIMD kernels),
// `cuda` (docs/cuda.md). head_dim is at most 512. Shape mismatches are programming errors and abort.
//
// Memory: matrices, weights, biases and caches were made by the same backend's allocate() and may be out of
// the host's reach: the host writes them through upload() and reads them through download(). Spans
// (positions, rows, scores) are host memory. Order: ops run one after the other in the order of the calls,
// and may still be running when they return. What goes into a span is there on return; a span passed in may
// be changed on return; download() and finish() wait for all before them.
//
// Element types: the residual stream, norms, biases and scores are float32. GEMM inputs, queries and the KV
// cache are of the backend's compute dtype (F32 or BF16, by Precision). Accumulation is never narrower than
// float32.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/block_plan.h"
#include "backends/sliding_window.h"
#include "core/buffer.h"
#include "core/dtype.h"
#include "core/range.h"

namespace winnow {

// kInt8: the layers' matrix products round weights (by output feature) and activations (by row) to 8 bits,
// all else is as in kBF16.
enum class Precision : std::uint8_t { kF32, kBF16, kInt8 };

constexpr const char* precision_name(Precision precision) {
  switch (precision) {
    case Precision::kF32: return "f32";
    case Precision::kBF16: return "bf16";
    case Precision::kInt8: return "int8";
  }
  return "?";
}

// What activations and caches are stored in.
constexpr DType compute_dtype(Precision precision) {
  return precision == Precision::kF32 ? DType::kF32 : DType::kBF16;
}

// What caches keep between the calls of a session. kSame: keys and values as they are computed. kQ8: 8 bits a
// value. A head's row x is kept as round(x / scale), -127..127, where scale is the smallest bf16 number that
// is at least max|x| / 127 (in float32): one for the values of a row, one for every kQ8KeyDims dimensions of
// its keys, of which a few are often much larger than the others.
enum class KvType : std::uint8_t { kSame, kQ8 };
constexpr std::int64_t kQ8KeyDims = 32;

constexpr const char* kv_type_name(KvType type) { return type == KvType::kSame ? "same" : "q8"; }

// A view of row-major rows; rows are contiguous.
struct MatrixView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  std::int64_t row_bytes() const { return dtype_bytes(dtype, cols); }
  template <class T>
  T* row(std::int64_t r) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(data) + r * row_bytes());
  }
  MatrixView slice(std::int64_t begin, std::int64_t count) const {
    return {static_cast<std::byte*>(data) + begin * row_bytes(), dtype, count, cols};
  }
};

// A weight matrix [out_features, in_features] in the backend's own packed form.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual std::int64_t out_features() const = 0;
  virtual std::int64_t in_features() const = 0;
  virtual std::int64_t bytes() const = 0;  // all forms together
  // A form for products with few rows (LinearParams::decode), and the bytes that one reads.
  virtual bool has_decode_form() const { return false; }
  virtual std::int64_t decode_bytes() const { return bytes(); }
};

// Fills `out` with rows [begin, end) of a weight as float32, [end - begin, in_features].
using RowReader = std::function<void(std::int64_t begin, std::int64_t end, std::span<float> out)>;

// Rows of noise for a weight: element [i, j] is scale * uniform(stream, first + i * stride + j)
// (core/uniform.h): a part of a larger matrix of `stride` columns.
struct UniformRows {
  std::int64_t rows = 0;
  std::uint64_t stream = 0;
  float scale = 1.0f;
  std::int64_t first = 0;
  std::int64_t stride = 0;  // 0: as many as the weight has columns

  std::int64_t index(std::int64_t row, std::int64_t columns) const {
    return first + row * (stride == 0 ? columns : stride);
  }
};

// Rows of a weight as its file stores them: of the model's rows in their order, `read` fills `out` with
// [begin, end), in the blocks of `dtype`.
struct StoredRows {
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::function<void(std::int64_t begin, std::int64_t end, std::span<std::byte> out)> read;
};

// One layer's keys and values. Rows are sorted by position; every layer has its own number of rows, and after
// pruning a row is not a position. The layout of `k` and `v` is private to the backend. Caches of kQ8 are
// taken by rope_append, attention of single queries without a plan, reserve, keep_rows and unpack; other ops
// want kSame.
struct LayerKv {
  Buffer k, v;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t rows = 0;
  std::int64_t capacity = 0;            // rows that fit without reserve()
  std::vector<std::int32_t> positions;  // [rows]
  bool here = true;                     // false: another rank has the keys and values
  KvType type = KvType::kSame;          // of k and v
  std::int64_t bytes() const { return k.bytes() + v.bytes(); }
  // What the queries of a layer with a window of `size` positions see; 0: it has none.
  SlidingWindow window(std::int64_t size) const { return {positions, size}; }
};

// cos and sin of every position: [positions, rotary_dim / 2] each, float32. Pairs are (i, i + rotary_dim / 2)
// as in Hugging Face's rotate_half (Su et al., arXiv 2104.09864, eq. 34, with that pairing).
struct RopeTable {
  Buffer cos, sin;
  std::int64_t positions = 0;
  std::int64_t rotary_dim = 0;  // even, at most head_dim; 0: the model has no rotary embedding
};

enum class NormKind : std::uint8_t { kRms, kLayer };

// y = x / rms(x) * weight (kRms, arXiv 1910.07467), or (x - mean) / std * weight + bias (kLayer, arXiv
// 1607.06450).
struct NormParams {
  NormKind kind = NormKind::kRms;
  MatrixView x;                   // [rows, dim] float32
  const float* weight = nullptr;  // [dim]
  const float* bias = nullptr;    // [dim] or nullptr
  float epsilon = 1e-5f;
  MatrixView y;             // [rows, dim] compute dtype or float32
  bool accumulate = false;  // y += norm(x); y is float32 then
};

// y = x W^T + bias, or y += x W^T + bias when `accumulate` (y float32 then).
struct LinearParams {
  MatrixView x;  // [rows, in_features] compute dtype
  const Weight* weight = nullptr;
  const float* bias = nullptr;  // [out_features] or nullptr
  MatrixView y;                 // [rows, out_features] compute dtype or float32
  bool accumulate = false;
  // Use the weight's decode form, if it has one: quantised weights as stored, with activations rounded to
  // int8.
  bool decode = false;
};

// Rotates q and k by their positions and appends k and v to the cache (which has room). positions[i] belongs
// to row i. With q_norm and k_norm (both or none) every head of q and k first goes through an RMS norm of its
// own: x / rms(x) * weight (Qwen3, Gemma 3).
struct RopeAppendParams {
  MatrixView qkv;  // [rows, (heads + 2 kv_heads) * head_dim] compute dtype: q | k | v
  std::span<const std::int32_t> positions;  // [rows]
  const RopeTable* rope = nullptr;
  MatrixView q;  // [rows, heads * head_dim] compute dtype, out
  LayerKv* kv = nullptr;
  LayerKv* q8 = nullptr;          // gets the rows too, in 8 bits: has the rows of `kv`; or nullptr
  const float* q_norm = nullptr;  // [head_dim] or nullptr
  const float* k_norm = nullptr;
  float norm_epsilon = 0.0f;
};

struct RowChoiceParams;  // row_choice.h
class RowChoice;

// Causal attention: query i sits at cache row `query_rows[i]` and sees cache rows 0..query_rows[i], of these
// only the ones in its sliding window, and of these only the ones in the plan's blocks. query_rows ascend
// strictly. A query that is left with no row gets zeros.
struct AttentionParams {
  MatrixView q;                              // [rows, heads * head_dim] compute dtype
  std::span<const std::int64_t> query_rows;  // [rows]
  const LayerKv* kv = nullptr;
  float scale = 1.0f;               // usually 1 / sqrt(head_dim)
  MatrixView out;                   // [rows, heads * head_dim] compute dtype
  const BlockPlan* plan = nullptr;  // of these queries; null: everything is computed
  std::int64_t window = 0;          // positions a query sees, its own included (SlidingWindow); 0: all
  // In place of query_rows, which the host need not know yet; without a plan.
  const RowChoice* chosen = nullptr;
};

// Softmax probabilities of one head: probs[i][j] = share of cache row j for query i, 0 for rows it does not
// see.
struct AttentionProbsParams {
  MatrixView q;                              // [rows, heads * head_dim] compute dtype
  std::span<const std::int64_t> query_rows;  // [rows], as in AttentionParams
  const LayerKv* kv = nullptr;
  float scale = 1.0f;
  std::int64_t head = 0;    // query head
  MatrixView probs;         // [rows, kv->rows] float32, out; host memory, there on return
  std::int64_t window = 0;  // as in AttentionParams
};

// Chooses the blocks of one layer. Made when the layer's keys and all queries of the turn are there; asked
// for one run of queries after the other, in order. Follows a cache that grows (decode); a cache that loses
// rows needs a new planner.
class BlockPlanner {
 public:
  virtual ~BlockPlanner() = default;
  // q [rows, heads * head_dim], query_rows [rows], as in AttentionParams. Replaces what `plan` held.
  virtual void plan(const MatrixView& q, std::span<const std::int64_t> query_rows, BlockPlan& plan) = 0;
  // Whether a layer is better planned at once, its runs of queries cut from that plan (slice_plan), than run
  // by run.
  virtual bool plans_ahead() const { return true; }
};

struct BlockPlannerParams {
  BlockRule rule;
  std::vector<float> thresholds;  // [heads] of the model
  const LayerKv* kv = nullptr;    // must outlive the planner
  float scale = 1.0f;
  std::int64_t dense_from_row = -1;  // queries at this cache row or behind it see everything; -1: none
  MatrixView last_q;  // [n <= 64, heads * head_dim] the turn's last queries, those at the cache's last rows
  // As in AttentionParams: blocks that none of a block's queries sees are neither asked about nor listed.
  std::int64_t window = 0;
};

enum class HeadReduction : std::uint8_t { kMax, kMean };
enum class QueryReduction : std::uint8_t { kMean, kMax };

// Attention that the last queries pay to every cached row: softmax per query over what it sees (query i sits
// at cache row kv->rows - q.rows + i), mean or max over the queries, then max or mean over the heads asked,
// or each of them by itself; NaN for all that a query sees whose softmax is none. (SnapKV, arXiv 2404.14469.)
struct WindowScoresParams {
  MatrixView q;  // [window, heads * head_dim] compute dtype, window <= kv->rows
  const LayerKv* kv = nullptr;
  float scale = 1.0f;
  std::span<const std::int32_t> heads = {};  // query heads that are asked, in any order; empty: all
  QueryReduction queries = QueryReduction::kMean;
  HeadReduction reduction = HeadReduction::kMax;
  bool per_head = false;            // no reduction over the heads: a row of scores for each head asked
  std::span<float> scores;          // [kv->rows], or [heads asked, kv->rows] with per_head; out
  std::int64_t sliding_window = 0;  // AttentionParams::window
};

enum class ActivationKind : std::uint8_t {
  kSiluGated,      // y = silu(gate) * up, x = [rows, 2 * dim]: gate | up (arXiv 2002.05202)
  kGeluTanh,       // y = gelu(x), tanh approximation (arXiv 1606.08415), as GPT-2
  kGeluErf,        // y = gelu(x), exact
  kGeluTanhGated,  // y = gelu(gate) * up, tanh approximation, x as for kSiluGated
};

constexpr bool is_gated(ActivationKind kind) {
  return kind == ActivationKind::kSiluGated || kind == ActivationKind::kGeluTanhGated;
}

struct ActivationParams {
  ActivationKind kind = ActivationKind::kSiluGated;
  MatrixView x;  // [rows, dim] or [rows, 2 * dim] compute dtype
  MatrixView y;  // [rows, dim] compute dtype; may be x itself for the ungated kinds
};

class Communicator;  // ranks/communicator.h

// The ranks that compute a model's layers together, each with a backend of its own (docs/multi_gpu.md).
struct RankShare {
  std::shared_ptr<Communicator> ranks;  // null: alone
  Range heads;                          // query heads of the model that are here
  std::int64_t model_heads = 0;
  bool sums = false;              // products into the residual stream are summed over the ranks
  std::int64_t most_columns = 0;  // of such a product
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Before anything else is asked of it, and on every rank.
  virtual void join(RankShare share) { share_ = std::move(share); }

  virtual std::string description() const = 0;  // e.g. "cpu, 2 threads, bf16, AMX"
  virtual Precision precision() const = 0;
  DType compute_dtype() const { return winnow::compute_dtype(precision()); }

  virtual Buffer allocate(std::int64_t bytes) = 0;
  // Copies between host memory and memory of allocate(). The default is for backends whose memory is the
  // host's.
  virtual void upload(const void* host, void* memory, std::int64_t bytes) {
    std::memcpy(memory, host, static_cast<std::size_t>(bytes));
  }
  virtual void download(const void* memory, void* host, std::int64_t bytes) {
    std::memcpy(host, memory, static_cast<std::size_t>(bytes));
  }
  virtual bool shares_host_memory() const { return true; }
  // Waits until every op has run: for clocks.
  virtual void finish() {}
  // Bytes that allocate() could still give; -1: what the system has.
  virtual std::int64_t free_bytes() const { return -1; }
  // Most bytes allocated at once so far; -1: a part of the process's own memory.
  virtual std::int64_t peak_bytes() const { return -1; }
  // Whether make_planner() takes layers whose sliding window hides rows; without it these are computed in
  // full.
  virtual bool plans_windows() const { return true; }
  // Rows of activations a layer works on at a time: bounds their memory.
  virtual std::int64_t chunk_rows() const { return 512; }

  // Between the two, only ops on few rows that the host does not wait for: the backend may put them off and
  // run them as one. Called around a decoded token.
  virtual void begin_step() {}
  virtual void end_step() {}

  virtual std::unique_ptr<Weight> pack(std::int64_t out_features, std::int64_t in_features,
                                       const RowReader& reader) = 0;
  // The same, with the rows as stored, from which a backend may make a decode form. `stored`: one part below
  // the other, or empty.
  virtual std::unique_ptr<Weight> pack_stored(std::int64_t out_features, std::int64_t in_features,
                                              const RowReader& reader, std::span<const StoredRows> stored) {
    static_cast<void>(stored);
    return pack(out_features, in_features, reader);
  }
  // A weight of uniform noise, part below part; every backend makes the same values.
  virtual std::unique_ptr<Weight> pack_uniform(std::int64_t in_features, std::span<const UniformRows> parts);
  // hidden[i] = scale * row rows[i] of `table` (packed by this backend); hidden is float32. For backends that
  // keep embeddings.
  virtual bool keeps_embeddings() const { return false; }
  virtual void gather(const Weight& table, std::span<const std::int32_t> rows, float scale,
                      const MatrixView& hidden);

  // Runs body(), which calls many small operations, with the backend's threads kept awake between them. Of
  // linear() only products with decode forms may be among them.
  virtual void together(const std::function<void()>& body) { body(); }

  virtual void norm(const NormParams& params) = 0;
  virtual void linear(const LinearParams& params) = 0;
  // The same with the products of all ranks summed, where the ranks have parts of the weight's columns. y is
  // float32, and the same on every rank.
  virtual void linear_over_ranks(const LinearParams& params);
  virtual void rope_append(const RopeAppendParams& params) = 0;
  // rope_append() of each, into different caches.
  virtual void rope_append_each(std::span<const RopeAppendParams> each) {
    for (const RopeAppendParams& params : each) rope_append(params);
  }
  virtual void attention(const AttentionParams& params) = 0;
  // attention() of each, over different caches: one step of several conversations.
  virtual void attention_each(std::span<const AttentionParams> each) {
    for (const AttentionParams& params : each) attention(params);
  }
  virtual void attention_probs(const AttentionProbsParams& params) = 0;
  virtual std::unique_ptr<BlockPlanner> make_planner(const BlockPlannerParams& params) = 0;
  // Of the model's heads: what other ranks have is asked of them, where they ask the same.
  void window_scores(const WindowScoresParams& params);
  // Which heads are here, how many the model has, and of a mean over those here the one over all of them.
  Range heads_here(const MatrixView& q, const LayerKv& kv) const {
    return share_.ranks ? share_.heads : Range{0, q.cols / kv.head_dim};
  }
  std::int64_t model_heads(const MatrixView& q, const LayerKv& kv) const {
    return share_.ranks ? share_.model_heads : q.cols / kv.head_dim;
  }
  double mean_over_model_heads(double mean_here) const;
  virtual void activation(const ActivationParams& params) = 0;
  // linear(up) and the activation of what it gives. up.y is working memory: it may be left as it was.
  virtual void linear_activation(const LinearParams& up, const ActivationParams& activated) {
    linear(up);
    activation(activated);
  }

  // y = x converted between F32 and BF16, or copied; same shape.
  virtual void convert(const MatrixView& x, const MatrixView& y) = 0;
  // norms[i] = Euclidean norm of row i of x.
  virtual void row_norms(const MatrixView& x, std::span<float> norms) = 0;
  // Moves row rows[i] of x to row i; `rows` ascends strictly.
  virtual void keep_rows(const MatrixView& x, std::span<const std::int64_t> rows) = 0;

  // A stage's tokens chosen without the host (row_choice.h); null: only the host chooses for this backend.
  virtual std::unique_ptr<RowChoice> choose_rows(const RowChoiceParams& params);
  // keep_rows() of the rows chosen, which the host need not know yet. For backends that choose.
  virtual void keep_rows(const MatrixView& x, const RowChoice& choice);

  // Makes room for at least `capacity` rows; keeps what is cached. kv_heads and head_dim are set.
  virtual void reserve(LayerKv& kv, std::int64_t capacity) = 0;
  // Bytes that reserve(kv, capacity) would hold.
  virtual std::int64_t kv_bytes(std::int64_t kv_heads, std::int64_t head_dim,
                                std::int64_t capacity) const = 0;
  // The same for caches of `type`.
  std::int64_t cache_bytes(KvType type, std::int64_t kv_heads, std::int64_t head_dim,
                           std::int64_t capacity) const {
    return type == KvType::kQ8 ? q8_bytes(kv_heads, head_dim, capacity)
                               : kv_bytes(kv_heads, head_dim, capacity);
  }
  // The rows of a cache of kQ8 as the first ones of `to`, a cache of kSame that has room and loses what it
  // had.
  virtual void unpack(const LayerKv& q8, LayerKv& to);
  // Keeps only the cache rows listed (ascending) and their positions, and gives the rest of the memory back.
  virtual void keep_rows(LayerKv& kv, std::span<const std::int64_t> rows) = 0;

  // What rank `from` has in `x`, into that of rank `to`; every rank calls it.
  virtual void transfer(const MatrixView& x, int from, int to);

 protected:
  const RankShare& share() const { return share_; }
  virtual std::int64_t q8_bytes(std::int64_t kv_heads, std::int64_t head_dim, std::int64_t capacity) const;
  // window_scores() of the heads here; those asked are counted from the first one here.
  virtual void own_window_scores(const WindowScoresParams& params) = 0;

 private:
  void window_scores_by_head(const WindowScoresParams& params);

  RankShare share_;
  Buffer summands_;  // of linear_over_ranks()
};

// `matrix`, where the host can read it: itself, or a copy in `copy`.
MatrixView on_host(Backend& backend, const MatrixView& matrix, Buffer& copy);

// `threads` 0: all the process may use.
std::unique_ptr<Backend> make_reference_backend(Precision precision);
std::unique_ptr<Backend> make_cpu_backend(Precision precision, int threads);
// On GPU number `device`. Error(kUnsupported) in a build without CUDA, and where there is no such GPU or none
// that the kernels were compiled for.
std::unique_ptr<Backend> make_cuda_backend(Precision precision, int device);

}  // namespace winnow
