// PruneLog: one JSON line a stage, written as soon as the prefill is done.
#pragma once

#include <fstream>
#include <span>
#include <string>

#include "sparsity/token_pruner.h"

namespace winnow::cli {

class PruneLog {
 public:
  // Starts the file anew; an empty path logs nothing. Error(kIo) when it cannot be written.
  explicit PruneLog(const std::string& path);
  void add(std::span<const StageRecord> stages);

 private:
  std::string path_;
  std::ofstream file_;
};

}  // namespace winnow::cli
