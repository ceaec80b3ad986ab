// Calibration: the user names what may be lost, winnow finds the fastest policy that loses no more.
//
// 1. Where the retrieval signal lives (retrieval_signal.h) decides where stages may stand.
// 2. Curves of density and error by head (block_calibration.h) give thresholds for any density.
// 3. Ladders of token policies and of block densities are climbed on a few windows and needles, until far
//    beyond the budget; what combinations of them will cost is predicted from that, and those that should
//    hold the budget are measured on the whole search set, the fastest first, until one holds.
// 4. The fastest that held is measured on held-out windows and needles, which nothing was chosen by. If it
//    fails there, the next one is tried, with a budget as much tighter.
// Everything measured goes to a journal, so that an interrupted calibration goes on where it stopped.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "calibrate/block_calibration.h"
#include "calibrate/measured.h"
#include "calibrate/retrieval_signal.h"
#include "eval/eval_policy.h"
#include "eval/eval_text.h"
#include "eval/journal.h"
#include "eval/runner.h"
#include "runtime/engine.h"

namespace winnow {

// What must hold. Of several, all. With a speed-up alone the loss is made as small as it allows.
struct QualityBudget {
  std::optional<double> max_kl, max_dce;  // nats, see docs/evaluation.md
  std::optional<double> min_niah;         // share of needles found; unset: 0.95 of what dense finds
  std::optional<double> min_speedup;      // dense TTFT / policy TTFT at `length`
};

struct CalibrationSettings {
  QualityBudget budget;
  std::vector<EvalText> texts;
  std::int64_t length = 4096;
  std::int64_t search_windows = 12, search_needles = 20;
  std::int64_t held_out_windows = 24, held_out_needles = 40;
  std::uint64_t seed = 0;
};

struct CalibrationResult {
  bool met = false;
  Measured best;                   // on held-out items; the nearest there is when the budget was not met
  Policy policy;                   // best's, with `measured` filled in
  RetrievalSignal signal;          // which heads see needles
  std::vector<Measured> frontier;  // everything measured, dense and the baselines included
};

struct CalibrationOptions {
  Journal* journal = nullptr;  // samples; may be null
  std::string state_file;      // curves and recall; empty: not kept
  bool baselines = false;      // measure other scorers and evictions beside the best policy, for the frontier
  std::function<void(double, const std::string&)> progress;  // share done, what is under way; may be empty
  std::function<bool()> cancelled;                           // may be empty
};

class Calibration {
 public:
  // Error before any work: texts too short or empty, a length beyond the context, a budget that is none. The
  // engine must outlive it.
  Calibration(const Engine& engine, CalibrationSettings settings);
  ~Calibration();

  // Nothing when cancelled.
  std::optional<CalibrationResult> run(const CalibrationOptions& options);

 private:
  class Search;
  const Engine& engine_;
  CalibrationSettings settings_;
};

}  // namespace winnow
