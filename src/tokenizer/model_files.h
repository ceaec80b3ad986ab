// The files of a Hugging Face tokenizer, found from what the user names.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace winnow {

// Files of one model in one folder, with what their names begin with: "" mostly, "gpt2-" for gpt2-vocab.json.
struct ModelFiles {
  std::string prefix;  // folder, '/', beginning of the names

  std::string path(const std::string& name) const { return prefix + name; }
  bool has(const std::string& name) const;

  // The object in a JSON file. Throws Error(kIo), Error(kBadFormat).
  nlohmann::json read(const std::string& name) const;
  // The same; nothing when there is no such file.
  std::optional<nlohmann::json> read_if_present(const std::string& name) const;
};

// A folder, or a file of it whose name ends with tokenizer.json, vocab.json, merges.txt or tokenizer.model.
// In a folder without these names, the one pair NAME-vocab.json, NAME-merges.txt or the one
// NAME-tokenizer.json is meant. Throws Error(kIo) when there is none, Error(kBadArgument) when there are
// several.
ModelFiles find_model_files(const std::string& path);

}  // namespace winnow
