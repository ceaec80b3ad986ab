#include "tokenizer/tokenizer.h"

#include <filesystem>

#include "core/mapped_file.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/loaders.h"

namespace winnow {
namespace {

bool is_hugging_face(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) || path.ends_with("tokenizer.json") ||
         path.ends_with("vocab.json") || path.ends_with("merges.txt");
}

TokenizerSpec read_spec(const std::string& path) {
  if (!is_hugging_face(path)) return spec_from_gguf(GgufFile(path));
  const ModelFiles files = find_model_files(path);
  TokenizerSpec spec = files.has("tokenizer.json")
                           ? spec_from_tokenizer_json(MappedFile(files.path("tokenizer.json")).text(),
                                                      files.path("tokenizer.json"))
                           : spec_from_vocab_merges(files);
  add_model_config(files, spec);
  return spec;
}

}  // namespace

std::string Tokenizer::decode(const std::vector<TokenId>& ids, bool skip_control) const {
  std::string text;
  for (const TokenId id : ids) {
    if (skip_control && is_control(id)) continue;
    text += token_bytes(id);
  }
  return text;
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path) {
  return std::make_unique<BpeTokenizer>(read_spec(path));
}

}  // namespace winnow
