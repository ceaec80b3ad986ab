#include "tokenizer/tokenizer.h"

#include <filesystem>

#include "core/mapped_file.h"
#include "formats/gguf_split.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/loaders.h"

namespace winnow {
namespace {

bool is_hugging_face(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error) || path.ends_with("tokenizer.json") ||
         path.ends_with("vocab.json") || path.ends_with("merges.txt") || path.ends_with("tokenizer.model");
}

TokenizerSpec read_folder(const ModelFiles& files) {
  if (files.has("tokenizer.json")) {
    const MappedFile file(files.path("tokenizer.json"));
    return spec_from_tokenizer_json(file.text(), file.path());
  }
  if (files.has("vocab.json")) return spec_from_vocab_merges(files);
  return spec_from_sentencepiece(files);
}

TokenizerSpec read_spec(const std::string& path) {
  if (!is_hugging_face(path)) return spec_from_gguf(GgufFile(first_gguf_part(path)));
  const ModelFiles files = find_model_files(path);
  TokenizerSpec spec =
      path.ends_with("tokenizer.model") ? spec_from_sentencepiece(files) : read_folder(files);
  add_model_config(files, spec);
  return spec;
}

// `bytes`, without a space it begins with if `drop_space`, which is then done.
std::string_view without_space(std::string_view bytes, bool& drop_space) {
  if (drop_space && bytes.starts_with(' ')) {
    drop_space = false;
    return bytes.substr(1);
  }
  drop_space = drop_space && bytes.empty();
  return bytes;
}

}  // namespace

std::string Tokenizer::decode(const std::vector<TokenId>& ids, bool skip_control) const {
  std::string text;
  bool drop_space = drops_leading_space();
  for (const TokenId id : ids) {
    if (skip_control && is_control(id)) continue;
    text += without_space(token_bytes(id), drop_space);
  }
  return text;
}

std::string TokenStream::push(TokenId token) {
  if (tokenizer_.is_control(token)) return "";
  return utf8_.push(without_space(tokenizer_.token_bytes(token), drop_space_));
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path) {
  return std::make_unique<BpeTokenizer>(read_spec(path));
}

}  // namespace winnow
