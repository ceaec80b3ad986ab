#include "core/data_dir.h"

#include <cstdlib>
#include <filesystem>

#include "core/error.h"

namespace winnow {

namespace fs = std::filesystem;

std::vector<std::string> data_folders() {
  const char* chosen = std::getenv("WINNOW_DATA_DIR");
  if (chosen != nullptr && *chosen != '\0') return {chosen};
  std::vector<std::string> folders;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) folders.push_back((program.parent_path().parent_path() / "share" / "winnow").string());
  folders.push_back(WINNOW_SOURCE_DIR "/data");
  folders.push_back(WINNOW_SOURCE_DIR);
  return folders;
}

std::string find_data(const std::string& relative) {
  std::string searched;
  for (const std::string& folder : data_folders()) {
    const fs::path path = fs::path(folder) / relative;
    std::error_code error;
    if (fs::exists(path, error)) return path.string();
    searched += (searched.empty() ? "" : ", ") + folder;
  }
  fail(ErrorCode::kIo, "{}: not among winnow's data in {}; set WINNOW_DATA_DIR to the folder that has it",
       relative, searched);
}

}  // namespace winnow
