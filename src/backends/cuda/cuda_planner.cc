#include "backends/cuda/cuda_planner.h"

#include <utility>
#include <vector>

#include "backends/cuda/block_planning.h"
#include "backends/cuda/device_buffer.h"
#include "backends/cuda/device_plan.h"
#include "core/check.h"
#include "core/error.h"

namespace winnow::cuda {
namespace {

// Numbers of pairs that kernels add up, many to a page, so that few downloads bring them all.
class CountPage {
 public:
  static constexpr std::int64_t kCounts = 64;
  explicit CountPage(Device& device)
      : device_(device), counts_(allocate_buffer(device, kCounts * 8)), host_(kCounts) {
    device.clear(counts_.as<>(), counts_.bytes());
  }
  bool full() const { return used_ == kCounts; }
  std::int64_t take() { return used_++; }
  unsigned long long* at(std::int64_t i) const { return counts_.as<unsigned long long>() + i; }
  unsigned long long value(std::int64_t i) {
    if (i >= known_) {
      device_.download(host_.data(), counts_.as<>(), counts_.bytes());
      known_ = used_;
    }
    return host_[static_cast<std::size_t>(i)];
  }

 private:
  Device& device_;
  Buffer counts_;
  std::vector<unsigned long long> host_;
  std::int64_t used_ = 0, known_ = 0;
};

class CudaPairCount final : public PairCount {
 public:
  CudaPairCount(std::shared_ptr<CountPage> page, std::int64_t plan_heads)
      : page_(std::move(page)), index_(page_->take()), plan_heads_(plan_heads) {}
  unsigned long long* on_device() const { return page_->at(index_); }
  double value() const override {
    return static_cast<double>(page_->value(index_)) / static_cast<double>(plan_heads_);
  }

 private:
  std::shared_ptr<CountPage> page_;
  std::int64_t index_, plan_heads_;
};

class CudaPlanner final : public BlockPlanner {
 public:
  CudaPlanner(const BlockPlannerParams& params, DType dtype, Device& device)
      : device_(device),
        kv_(*params.kv),
        thresholds_(allocate_buffer(device, static_cast<std::int64_t>(params.thresholds.size()) * 4)),
        last_q_(allocate_buffer(device, params.last_q.rows * params.last_q.row_bytes())) {
    // Through the ring: a copy from memory that is not pinned waits for the device.
    device.copy(thresholds_.as<>(), device.stage(params.thresholds.data(), thresholds_.bytes()),
                thresholds_.bytes());
    device.copy(last_q_.as<>(), params.last_q.data, last_q_.bytes());
    planning_ = {.rule = params.rule,
                 .dtype = dtype,
                 .heads = static_cast<std::int64_t>(params.thresholds.size()),
                 .kv_heads = kv_.kv_heads,
                 .head_dim = kv_.head_dim};
    planning_.kv_row_stride = kv_.kv_heads * kv_.head_dim;
    planning_.kv_head_stride = kv_.head_dim;
    planning_.scale = params.scale;
    planning_.dense_from_row = params.dense_from_row;
    planning_.thresholds = thresholds_.as<float>();
    planning_.last_q = last_q_.as<>();
    planning_.last_q_row_stride = params.last_q.cols;
    planning_.last_queries = params.last_q.rows;
    summarise();
  }

  bool plans_ahead() const override { return false; }

  void plan(const MatrixView& q, std::span<const std::int64_t> query_rows, BlockPlan& plan) override {
    if (kv_.rows != planning_.kv_rows) grow();
    const std::int64_t count = std::ssize(query_rows);
    PlanningQueries queries{.q = q.data, .q_row_stride = q.cols, .queries = count};
    queries.first_row = query_rows.front();
    if (query_rows.back() - query_rows.front() + 1 != count) {
      const std::vector<std::int32_t> rows(query_rows.begin(), query_rows.end());
      queries.query_rows = device_.stage_as(rows.data(), count);
    }
    const BlockRule& rule = planning_.rule;
    plan = {};
    plan.q_block = rule.q_block;
    plan.k_block = rule.k_block;
    plan.heads = rule.group_union ? planning_.kv_heads : planning_.heads;
    plan.query_blocks = block_count(count, rule.q_block);
    plan.means = means_;
    auto held = std::make_shared<BlocksOnDevice>();
    held->words = plan_words(planning_.kv_rows, rule.k_block);
    held->bits = allocate_buffer(device_, plan_bits_bytes(plan.heads, plan.query_blocks, held->words));
    auto* bits = held->bits.as<std::uint32_t>();
    list_blocks(planning_, summary_.as<>(), queries, bits,
                device_.scratch(planning_workspace(planning_, count)), device_.stream());
    if (counts_ == nullptr || counts_->full()) counts_ = std::make_shared<CountPage>(device_);
    auto pairs = std::make_shared<CudaPairCount>(counts_, plan.heads);
    count_pairs(planning_, queries, plan.heads, bits, pairs->on_device(), device_.stream());
    held->computed = std::move(pairs);
    plan.held = std::move(held);
  }

 private:
  void grow() {
    if (planning_.rule.estimator == BlockEstimator::kVerticalSlash) {
      fail(ErrorCode::kUnsupported,
           "--device cuda: decoding over blocks that vertical_slash selects; set attention.decode to dense");
    }
    summarise();
  }

  void summarise() {
    planning_.kv_rows = kv_.rows;
    planning_.k = kv_.k.as<>();
    planning_.v = kv_.v.as<>();
    summary_ = allocate_buffer(device_, summary_bytes(planning_));
    summarise_keys(planning_, summary_.as<>(), device_.stream());
    if (!planning_.rule.mean_correction) return;
    auto means = std::make_shared<LayerKv>();
    means->kv_heads = kv_.kv_heads;
    means->head_dim = kv_.head_dim;
    means->rows = means->capacity = kv_.rows / planning_.rule.k_block;
    const std::int64_t bytes = dtype_bytes(planning_.dtype, means->rows * kv_.kv_heads * kv_.head_dim);
    means->k = allocate_buffer(device_, bytes);
    means->v = allocate_buffer(device_, bytes);
    average_blocks(planning_, means->k.as<>(), means->v.as<>(), device_.stream());
    means_ = std::move(means);
  }

  Device& device_;
  const LayerKv& kv_;
  PlanningParams planning_;
  Buffer thresholds_, last_q_, summary_;
  std::shared_ptr<const LayerKv> means_;  // [kv_heads, rows, head_dim]
  std::shared_ptr<CountPage> counts_;
};

}  // namespace

std::unique_ptr<BlockPlanner> make_cuda_planner(const BlockPlannerParams& params, DType dtype,
                                                Device& device) {
  check(params.kv != nullptr && !params.thresholds.empty(), "planner: a cache and thresholds");
  return std::make_unique<CudaPlanner>(params, dtype, device);
}

}  // namespace winnow::cuda
