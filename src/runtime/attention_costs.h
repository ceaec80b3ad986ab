// What attention and the planning of its blocks cost on this machine. Measured once for a shape and a rule,
// kept in a file, so that the same prompt takes the same path from run to run.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "backends/backend.h"

namespace winnow {

// Nanoseconds of one layer, all heads together. A pair is a (query, key) element at or below the diagonal.
struct AttentionCosts {
  double dense_ns = 0;   // a pair, everything computed
  double sparse_ns = 0;  // a pair in a plan's blocks
  double setup_ns = 0;   // making a planner, for each cache row
  double plan_ns = 0;    // planning, for each causal pair of the queries planned
  bool settled =
      true;  // false: other work got in the way of measuring; good for this process, not to be kept

  // Would skipping all but `forced` pairs be faster than computing all `causal` ones, planning and the making
  // of a planner over `new_rows` cache rows included? If not, planning cannot pay.
  bool planning_may_pay(double new_rows, double causal, double forced) const {
    return setup_ns * new_rows + plan_ns * causal + sparse_ns * forced < dense_ns * causal;
  }
  // With the plan at hand: is it faster than no plan?
  bool plan_pays(const PlanWork& work) const { return sparse_ns * work.computed < dense_ns * work.causal; }
};

struct AttentionShape {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
};

// By running the backend's own operations on random rows of the given shape; some 50 ms.
AttentionCosts measure_attention_costs(Backend& backend, const AttentionShape& shape, const BlockRule& rule);

// What costs depend on: program version, processor, backend (threads, precision), shape and rule.
std::string attention_costs_key(const Backend& backend, const AttentionShape& shape, const BlockRule& rule);

// $XDG_CACHE_HOME/winnow/attention_costs.json, or under ~/.cache; "" when neither variable is set.
std::string attention_costs_file();

// Costs by key, in memory and in a JSON file. A file that cannot be read, or holds something else, counts as
// empty; one that cannot be written is left alone: both cost a measurement, never the run.
class AttentionCostsCache {
 public:
  explicit AttentionCostsCache(std::string path) : path_(std::move(path)) {}
  const AttentionCosts& get(const std::string& key, const std::function<AttentionCosts()>& measure);

 private:
  void store(const std::string& key, const AttentionCosts& costs) const;

  std::string path_;  // "": nothing is kept beyond the process
  std::map<std::string, AttentionCosts> known_;
};

}  // namespace winnow
