#include "tokenizer/model_files.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/mapped_file.h"
#include "formats/json_text.h"

namespace winnow {
namespace {

constexpr std::size_t kMaxJsonBytes = std::size_t{256} << 20;

// Beginnings of the names in `folder` that end with `name`.
std::vector<std::string> prefixes_of(const std::string& folder, const std::string& name) {
  std::vector<std::string> prefixes;
  std::error_code error;
  for (std::filesystem::directory_iterator file(folder, error), end; !error && file != end;
       file.increment(error)) {
    const std::string found = file->path().filename().string();
    if (found.ends_with("-" + name)) prefixes.push_back(found.substr(0, found.size() - name.size()));
  }
  if (error) fail(ErrorCode::kIo, "{}: cannot read the folder: {}", folder, error.message());
  return prefixes;
}

ModelFiles find_in_folder(const std::string& folder) {
  const ModelFiles plain{folder + "/"};
  if (plain.has("tokenizer.json") || plain.has("vocab.json") || plain.has("tokenizer.model")) return plain;
  std::vector<std::string> prefixes = prefixes_of(folder, "tokenizer.json");
  for (const std::string& prefix : prefixes_of(folder, "vocab.json")) {
    if (std::find(prefixes.begin(), prefixes.end(), prefix) == prefixes.end()) prefixes.push_back(prefix);
  }
  if (prefixes.empty())
    fail(ErrorCode::kIo, "{}: there is no tokenizer.json, vocab.json or tokenizer.model here", folder);
  if (prefixes.size() > 1) {
    fail(ErrorCode::kBadArgument, "{}: there are tokenizers of {} models here; name one of the files", folder,
         prefixes.size());
  }
  return {folder + "/" + prefixes[0]};
}

}  // namespace

bool ModelFiles::has(const std::string& name) const {
  std::error_code error;
  return std::filesystem::is_regular_file(path(name), error);
}

nlohmann::json ModelFiles::read(const std::string& name) const {
  const MappedFile file(path(name));
  return parse_json_object(file.text(), file.path(), kMaxJsonBytes);
}

std::optional<nlohmann::json> ModelFiles::read_if_present(const std::string& name) const {
  if (!has(name)) return std::nullopt;
  return read(name);
}

ModelFiles find_model_files(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return find_in_folder(path);
  for (const std::string name : {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"}) {
    if (path.ends_with(name)) return {path.substr(0, path.size() - name.size())};
  }
  fail(ErrorCode::kIo, "{}: neither a folder nor a tokenizer.json, vocab.json, merges.txt or tokenizer.model",
       path);
}

}  // namespace winnow
