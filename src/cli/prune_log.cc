#include "cli/prune_log.h"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace winnow::cli {

PruneLog::PruneLog(const std::string& path) : path_(path) {
  if (path_.empty()) return;
  file_.open(path_, std::ios::trunc);
  if (!file_) fail(ErrorCode::kIo, "{}: cannot write the prune log: {}", path_, std::strerror(errno));
}

void PruneLog::add(std::span<const StageRecord> stages) {
  if (path_.empty()) return;
  for (const StageRecord& stage : stages) file_ << to_json(stage).dump() << '\n';
  file_.flush();
  if (!file_) fail(ErrorCode::kIo, "{}: cannot write the prune log: {}", path_, std::strerror(errno));
}

}  // namespace winnow::cli
