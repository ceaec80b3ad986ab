#include "core/data_dir.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "core/error.h"

namespace winnow {
namespace {

namespace fs = std::filesystem;

constexpr int kLevels = 3;  // /usr/lib/x86_64-linux-gnu is two folders away from /usr/share

// Where the shared library that this code is in lies; the program, where it is in no library.
fs::path own_file() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&data_folders), &info) == 0 || info.dli_fname == nullptr)
    return program;
  const fs::path file = fs::canonical(info.dli_fname, error);  // a program's name may be anything
  return error || file.filename().string().find(".so") == std::string::npos ? program : file;
}

}  // namespace

std::vector<std::string> data_folders() {
  const char* chosen = std::getenv("WINNOW_DATA_DIR");
  if (chosen != nullptr && *chosen != '\0') return {chosen};
  std::vector<std::string> folders;
  fs::path folder = own_file().parent_path();
  for (int level = 0; level < kLevels; ++level, folder = folder.parent_path()) {
    folders.push_back((folder / "share" / "winnow").string());
  }
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
