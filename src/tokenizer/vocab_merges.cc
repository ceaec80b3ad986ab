#include <algorithm>

#include "core/byte_reader.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/loaders.h"
#include "tokenizer/spellings_by_id.h"
#include "tokenizer/token_json.h"

namespace winnow {
namespace {

std::vector<Merge> read_merges(const std::string& path, const Vocabulary& vocabulary) {
  const MappedFile file(path);
  std::string_view text = file.text();
  std::vector<Merge> merges;
  for (std::size_t line_number = 0; !text.empty(); ++line_number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (line_number == 0 && line.starts_with("#version"))) continue;
    merges.push_back(resolve_merge(vocabulary, line, merges.size(), path));
  }
  return merges;
}

// Tokens of tokenizer_config.json's added_tokens_decoder, {"50256": {"content": ..., "special": ...}}.
std::vector<AddedToken> read_added_tokens(const JsonField& decoder) {
  std::vector<AddedToken> tokens;
  if (decoder.is_null()) return tokens;
  for (const auto& [key, value] : decoder.value().items()) {
    const JsonField token(value, decoder.where() + "." + printable(key));
    if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos) {
      fail(ErrorCode::kBadFormat, "{}: '{}' is no token id", decoder.where(), printable(key));
    }
    const bool special = token["special"].boolean_or(false);
    tokens.push_back({.content = token["content"].string(),
                      .id = static_cast<TokenId>(std::stol(key)),
                      .special = special,
                      .single_word = token["single_word"].boolean_or(false),
                      .lstrip = token["lstrip"].boolean_or(false),
                      .rstrip = token["rstrip"].boolean_or(false),
                      .normalized = token["normalized"].boolean_or(!special)});
  }
  return tokens;
}

// GPT-2's own files name no special tokens at all.
void add_end_of_text(const TokenJson& json, std::vector<AddedToken>& added) {
  constexpr const char* kEndOfText = "<|endoftext|>";
  if (!added.empty()) return;
  for (const auto& [spelling, id] : json.vocab) {
    if (spelling == kEndOfText) added.push_back({.content = spelling, .id = id, .special = true});
  }
}

void choose_pretokenizer(const JsonField& config, TokenizerSpec& spec) {
  const std::string name = config["tokenizer_class"].string_or("GPT2Tokenizer");
  if (name.starts_with("Qwen2Tokenizer")) {
    spec.nfc = true;
    spec.pretokenizer.add(make_qwen2_splitter(/*max_digits=*/1));
  } else if (name.starts_with("GPT2Tokenizer")) {
    if (config["add_prefix_space"].boolean_or(false)) spec.pretokenizer.add(make_prefix_space());
    spec.pretokenizer.add(make_gpt2_splitter());
  } else {
    fail(ErrorCode::kUnsupported, "{}: {} without a tokenizer.json is not supported",
         config["tokenizer_class"].where(), printable(name));
  }
}

}  // namespace

TokenizerSpec spec_from_vocab_merges(const ModelFiles& files) {
  TokenizerSpec spec;
  spec.source = files.path("vocab.json");
  const TokenJson json =
      read_token_json(MappedFile(spec.source).text(), TokenJsonLayout::kVocabJson, spec.source);
  const nlohmann::json config =
      files.read_if_present("tokenizer_config.json").value_or(nlohmann::json::object());
  const JsonField config_field(config, files.path("tokenizer_config.json") + ": ");
  spec.added = read_added_tokens(config_field["added_tokens_decoder"]);
  add_end_of_text(json, spec.added);
  SpellingsById tokens(json.vocab.size() + spec.added.size(), spec.source);
  for (const auto& [spelling, id] : json.vocab) tokens.add(spelling, id);
  for (const AddedToken& token : spec.added) tokens.add(token.content, token.id);
  spec.vocabulary = std::make_shared<const Vocabulary>(tokens.take(), spec.source);
  spec.merges = read_merges(files.path("merges.txt"), *spec.vocabulary);
  choose_pretokenizer(config_field, spec);
  return spec;
}

}  // namespace winnow
