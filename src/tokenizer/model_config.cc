#include "core/byte_reader.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/loaders.h"

namespace winnow {
namespace {

// "<|im_end|>" or {"content": "<|im_end|>", ...}
TokenId find_named(const JsonField& token, const TokenizerSpec& spec) {
  const std::string& text = token.value().is_object() ? token["content"].string() : token.string();
  return spec.vocabulary->find(text);
}

void read_ends(const JsonField& root, TokenizerSpec& spec) {
  // Only a chat template may need the first, and says so if it is not there.
  if (const JsonField begin = root["bos_token"]; !begin.is_null()) {
    if (const TokenId id = find_named(begin, spec); id >= 0) spec.begin_of_text = id;
  }
  const JsonField end = root["eos_token"];
  if (end.is_null()) return;
  const TokenId id = find_named(end, spec);
  if (id < 0) fail(ErrorCode::kBadFormat, "{} is not in the vocabulary", end.where());
  spec.end_of_text = id;
  spec.stop_tokens.push_back(id);
}

// 151645 or [151645, 151643]
void add_numbered_stops(const JsonField& ids, TokenizerSpec& spec) {
  if (ids.is_null()) return;
  if (!ids.value().is_array()) return spec.stop_tokens.push_back(ids.token_id());
  for (std::size_t i = 0; i < ids.array_size(); ++i) spec.stop_tokens.push_back(ids.at(i).token_id());
}

// A string, or a list of {"name", "template"} of which "default" is meant.
void read_chat_template(const JsonField& field, TokenizerSpec& spec) {
  if (field.is_null()) return;
  if (!field.value().is_array()) {
    spec.chat_template = field.string();
    return;
  }
  for (std::size_t i = 0; i < field.array_size(); ++i) {
    if (field.at(i)["name"].string() == "default") spec.chat_template = field.at(i)["template"].string();
  }
}

}  // namespace

AddedToken read_added_token(const JsonField& token, TokenId id) {
  const bool special = token["special"].boolean_or(false);
  return {.content = token["content"].string(),
          .id = id,
          .special = special,
          .single_word = token["single_word"].boolean_or(false),
          .lstrip = token["lstrip"].boolean_or(false),
          .rstrip = token["rstrip"].boolean_or(false),
          .normalized = token["normalized"].boolean_or(!special)};
}

std::vector<AddedToken> read_added_tokens_decoder(const JsonField& decoder) {
  std::vector<AddedToken> tokens;
  if (decoder.is_null()) return tokens;
  for (const auto& [key, value] : decoder.value().items()) {
    const JsonField token(value, decoder.where() + "." + printable(key));
    if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos) {
      fail(ErrorCode::kBadFormat, "{}: '{}' is no token id", decoder.where(), printable(key));
    }
    tokens.push_back(read_added_token(token, static_cast<TokenId>(std::stol(key))));
  }
  return tokens;
}

void add_model_config(const ModelFiles& files, TokenizerSpec& spec) {
  if (const auto config = files.read_if_present("tokenizer_config.json")) {
    const JsonField root(*config, files.path("tokenizer_config.json") + ": ");
    read_ends(root, spec);
    read_chat_template(root["chat_template"], spec);
  }
  // config.json may also be a model's only word on it; a vision model's says nothing at its top level.
  for (const char* name : {"generation_config.json", "config.json"}) {
    if (const auto config = files.read_if_present(name)) {
      add_numbered_stops(JsonField(*config, files.path(name) + ": ")["eos_token_id"], spec);
    }
  }
  if (files.has("chat_template.jinja")) {
    spec.chat_template = std::string(MappedFile(files.path("chat_template.jinja")).text());
  }
}

}  // namespace winnow
