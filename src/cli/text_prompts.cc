#include "cli/text_prompts.h"

#include <xxhash.h>

#include <algorithm>
#include <filesystem>

#include "cli/common.h"
#include "cli/provenance.h"
#include "core/data_dir.h"
#include "core/error.h"

namespace winnow::cli {
namespace {

namespace fs = std::filesystem;

// Paths of the built-in texts, by name.
std::vector<fs::path> built_in_texts() {
  const std::string folder = find_data("texts");
  std::vector<fs::path> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".txt") paths.push_back(entry.path());
  }
  if (paths.empty()) fail(ErrorCode::kIo, "{}: no texts (*.txt) in this folder", folder);
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

std::vector<SourceText> read_texts(const std::vector<std::string>& names) {
  std::vector<SourceText> texts;
  const auto add = [&](const std::string& name, const std::string& path) {
    texts.push_back({name, read_text(path)});
    if (texts.back().text.empty()) fail(ErrorCode::kBadArgument, "{}: is empty", name);
  };
  for (const std::string& name : names) {
    const std::size_t before = texts.size();
    std::string known = "mix";
    std::error_code ignored;
    if (!fs::exists(name, ignored) && name != "-") {
      for (const fs::path& path : built_in_texts()) {
        known += ", " + path.stem().string();
        if (name == "mix" || name == path.stem()) add(path.stem().string(), path.string());
      }
      if (texts.size() == before) {
        fail(ErrorCode::kIo, "--text {}: neither a file nor a built-in text (these are {})", name, known);
      }
    } else {
      add(file_name(name), name);
    }
  }
  return texts;
}

std::vector<TextPrompt> make_prompts(const Tokenizer& tokenizer, const std::vector<SourceText>& texts,
                                     std::int64_t length, std::int64_t most) {
  std::vector<TextPrompt> prompts;
  std::int64_t shortest = most;
  for (const SourceText& text : texts) {
    prompts.push_back({text.name,
                       tokenizer.encode(text.text, /*parse_special=*/false),
                       {{"source", text.name},
                        {"bytes", text.text.size()},
                        {"xxh64", hex_hash(XXH64(text.text.data(), text.text.size(), 0))}}});
    const auto tokens = static_cast<std::int64_t>(prompts.back().tokens.size());
    if (tokens < length) {
      fail(ErrorCode::kBadArgument,
           "{}: has {} tokens, --length {} needs more; name a longer text or a smaller length", text.name,
           tokens, length);
    }
    shortest = std::min(shortest, tokens);
  }
  for (TextPrompt& prompt : prompts)
    prompt.tokens.resize(static_cast<std::size_t>(length > 0 ? length : shortest));
  return prompts;
}

}  // namespace winnow::cli
