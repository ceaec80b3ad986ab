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
    spec.normalizer.add_nfc();
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
  spec.added = read_added_tokens_decoder(config_field["added_tokens_decoder"]);
  add_end_of_text(json, spec.added);
  SpellingsById tokens(json.vocab.size() + spec.added.size(), spec.source);
  for (const auto& [spelling, id] : json.vocab) tokens.add(spelling, id);
  for (const AddedToken& token : spec.added) tokens.add(token.content, token.id);
  spec.vocabulary = std::make_shared<const Vocabulary>(tokens.take(), spec.source);
  spec.merges = read_merges(files.path("merges.txt"), *spec.vocabulary);
  choose_pretokenizer(config_field, spec);
  normalise_added(spec);
  return spec;
}

}  // namespace winnow
