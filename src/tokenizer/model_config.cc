#include "core/error.h"
#include "core/mapped_file.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/loaders.h"

namespace winnow {
namespace {

// "<|im_end|>" or {"content": "<|im_end|>", ...}
void add_named_stop(const JsonField& token, TokenizerSpec& spec) {
  if (token.is_null()) return;
  const std::string& text = token.value().is_object() ? token["content"].string() : token.string();
  const TokenId id = spec.vocabulary->find(text);
  if (id < 0) fail(ErrorCode::kBadFormat, "{} is not in the vocabulary", token.where());
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

void add_model_config(const ModelFiles& files, TokenizerSpec& spec) {
  if (const auto config = files.read_if_present("tokenizer_config.json")) {
    const JsonField root(*config, files.path("tokenizer_config.json") + ": ");
    add_named_stop(root["eos_token"], spec);
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
