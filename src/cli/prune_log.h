// PruneLog: one JSON line a stage, kept until the run is over.
#pragma once

#include <span>
#include <string>

#include "sparsity/token_pruner.h"

namespace winnow::cli {

class PruneLog {
 public:
  // An empty path logs nothing. Error(kIo) when the file could not be written; it is not touched before
  // write().
  explicit PruneLog(const std::string& path);
  void add(std::span<const StageRecord> stages);
  // Replaces the file by all that was added. Error(kIo) leaves it as it was.
  void write() const;

 private:
  std::string path_, text_;
};

}  // namespace winnow::cli
