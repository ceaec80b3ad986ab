#include "eval/runner.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace winnow {
namespace {

// Threads and device are left out: an evaluation may well go on elsewhere. Its times do not (run_item).
std::string sample_key(const Engine& engine, const EvalPolicy& policy, const Workload& workload,
                       std::int64_t item) {
  nlohmann::json said = to_json(policy);
  said.erase("measured");
  nlohmann::json decisive = {engine.source().content_hash(),
                             static_cast<int>(engine.backend().precision()),
                             said,
                             workload.identity(),
                             workload.length(),
                             workload.number(item)};
  // Left out where there is no choice made, so that journals from before there was one go on.
  if (engine.kv_type() != KvType::kSame) decisive.push_back(kv_type_name(engine.kv_type()));
  const std::string text = decisive.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

class Run {
 public:
  Run(const Engine& engine, const std::vector<EvalPolicy>& policies, const RunnerOptions& options)
      : engine_(engine),
        policies_(policies),
        options_(options),
        order_(policies.size()),
        timed_on_(engine.backend().description()) {
    // Dense first on the first item: what the first prefill of the process costs more falls on it, and is
    // marked.
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_partition(order_.begin(), order_.end(), [&](std::size_t i) { return policies[i].dense(); });
  }

  RunResult run(const std::vector<std::unique_ptr<Workload>>& workloads) {
    for (const auto& workload : workloads) {
      result_.samples.emplace_back(policies_.size(), std::vector<Sample>(workload->items()));
      result_.total += workload->items() * std::ssize(policies_);
    }
    for (std::size_t w = 0; w < workloads.size(); ++w) {
      for (std::int64_t i = 0; i < workloads[w]->items(); ++i) {
        if (options_.take && !options_.take(fmt::format("{}.{}", w, i))) continue;
        result_.cancelled = !run_item(*workloads[w], i, result_.samples[w]);
        if (result_.cancelled) return std::move(result_);
      }
    }
    return std::move(result_);
  }

 private:
  // Policies take turns on each item, so that a slow minute of the machine does not fall on one of them, and
  // each is now the first of them, now the last.
  bool run_item(const Workload& workload, std::int64_t index, std::vector<std::vector<Sample>>& samples) {
    std::unique_ptr<Item> item;
    for (std::size_t turn = 0; turn < order_.size(); ++turn) {
      const std::size_t p = order_[(turn + static_cast<std::size_t>(index)) % order_.size()];
      const std::string key = options_.journal ? sample_key(engine_, policies_[p], workload, index) : "";
      if (const Sample* known = options_.journal ? options_.journal->find(key) : nullptr) {
        samples[p][index] = *known;
        if (known->timed_on != timed_on_) samples[p][index].ttft_ms.reset();
        ++result_.resumed;
        continue;
      }
      if (options_.only_known) continue;
      if (options_.cancelled && options_.cancelled()) return false;
      report_progress(workload, index, policies_[p]);
      if (!item) item = workload.item(index);
      std::optional<Sample> sample = item->measure(policies_[p], options_.cancelled);
      if (!sample) return false;
      sample->cold = !std::exchange(warm_, true);
      sample->timed_on = timed_on_;
      if (options_.journal) options_.journal->add(key, *sample);
      samples[p][index] = std::move(*sample);
      ++result_.measured;
    }
    return true;
  }

  void report_progress(const Workload& workload, std::int64_t index, const EvalPolicy& policy) const {
    if (!options_.progress) return;
    const auto done = static_cast<double>(result_.measured + result_.resumed);
    options_.progress(done / static_cast<double>(result_.total),
                      fmt::format("{} at {}, {} of {}, {}", workload.name(), workload.length(), index + 1,
                                  workload.items(), policy.name));
  }

  const Engine& engine_;
  const std::vector<EvalPolicy>& policies_;
  const RunnerOptions& options_;
  std::vector<std::size_t> order_;  // of the policies, on the first item
  std::string timed_on_;
  RunResult result_;
  bool warm_ = false;
};

}  // namespace

RunResult run_evaluation(const Engine& engine, const std::vector<EvalPolicy>& policies,
                         const std::vector<std::unique_ptr<Workload>>& workloads,
                         const RunnerOptions& options) {
  return Run(engine, policies, options).run(workloads);
}

}  // namespace winnow
