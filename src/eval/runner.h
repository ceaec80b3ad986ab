// Runner: policies x workloads x items over one engine. Finished samples go to a journal at once; a later run
// with the same journal measures only what is missing.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "eval/eval_policy.h"
#include "eval/journal.h"
#include "eval/workload.h"
#include "runtime/engine.h"

namespace winnow {

struct RunnerOptions {
  Journal* journal = nullptr;                                     // null: nothing is kept on the way
  std::function<void(double, const std::string&)> progress = {};  // share done, what is next; may be empty
  Cancelled cancelled = {};                                       // may be empty
  // Asked before an item, by a name of its own: false leaves it to another process. Empty: all are measured.
  std::function<bool(const std::string&)> take = {};
  bool only_known = false;  // what the journal has; nothing is measured
};

// samples[workload][policy][item].
struct RunResult {
  std::vector<std::vector<std::vector<Sample>>> samples;
  std::int64_t measured = 0, resumed = 0, total = 0;  // samples
  bool cancelled = false;
  bool finished() const { return measured + resumed == total; }
};

// Stops as soon as it can when `cancelled`; what is measured by then is in the journal, and finished() is
// false.
RunResult run_evaluation(const Engine& engine, const std::vector<EvalPolicy>& policies,
                         const std::vector<std::unique_ptr<Workload>>& workloads,
                         const RunnerOptions& options);

}  // namespace winnow
