#include "cli/prune_log.h"

#include "cli/common.h"
#include "cli/schemas.h"
#include "core/atomic_file.h"

namespace winnow::cli {

PruneLog::PruneLog(const std::string& path) : path_(path) {
  if (!path_.empty()) check_writable(path_);
}

void PruneLog::add(std::span<const StageRecord> stages) {
  for (const StageRecord& stage : stages) {
    nlohmann::json line = to_json(stage);
    line["schema"] = kStageSchema;
    text_ += dump_json(line) + "\n";
  }
}

void PruneLog::write() const {
  if (!path_.empty()) write_file_atomically(path_, text_);
}

}  // namespace winnow::cli
