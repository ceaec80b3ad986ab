#include "core/byte_reader.h"
#include "core/error.h"
#include "tokenizer/loaders.h"

namespace winnow {
namespace {

// Values of tokenizer.ggml.token_type.
constexpr std::int64_t kControl = 3, kUserDefined = 4;

// Names llama.cpp gives the pre-tokenizers it knows; a converter picks one by what the model's own tokenizer
// does.
void choose_pretokenizer(const std::string& name, TokenizerSpec& spec) {
  if (name == "gpt-2") {
    spec.pretokenizer.add(make_gpt2_splitter());
  } else if (name == "smollm") {
    spec.pretokenizer.add(make_digits_splitter(/*individual=*/true));
    spec.pretokenizer.add(make_gpt2_splitter());
  } else if (name == "qwen2" || name == "deepseek-r1-qwen") {
    spec.nfc = true;  // not in the file, but in the tokenizer.json of every model these names stand for
    spec.pretokenizer.add(make_qwen2_splitter(/*max_digits=*/1));
  } else if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") {
    spec.bpe.ignore_merges = true;
    spec.pretokenizer.add(make_qwen2_splitter(/*max_digits=*/3));
  } else {
    fail(ErrorCode::kUnsupported,
         "{}: tokenizer.ggml.pre is '{}'; winnow knows gpt-2, smollm, qwen2, deepseek-r1-qwen and llama-bpe",
         spec.source, printable(name));
  }
}

std::vector<AddedToken> find_added(const GgufFile& file, const std::vector<std::string_view>& tokens) {
  std::vector<AddedToken> added;
  const auto types = file.find_integers("tokenizer.ggml.token_type");
  if (!types) return added;
  if (types->size() != tokens.size()) {
    fail(ErrorCode::kBadFormat, "{}: tokenizer.ggml.token_type has {} entries for {} tokens", file.path(),
         types->size(), tokens.size());
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::int64_t type = (*types)[i];
    if (type != kControl && type != kUserDefined) continue;
    added.push_back(
        {.content = std::string(tokens[i]), .id = static_cast<TokenId>(i), .special = type == kControl});
  }
  return added;
}

TokenId token_id(const GgufFile& file, std::string_view key, const TokenizerSpec& spec) {
  const std::int64_t id = file.integer(key);
  if (id < 0 || id >= spec.vocabulary->size()) {
    fail(ErrorCode::kBadFormat, "{}: {} is {}, but there are {} tokens", file.path(), key, id,
         spec.vocabulary->size());
  }
  return static_cast<TokenId>(id);
}

// A token the file asks for at an end of every text, if it does.
void add_end(const GgufFile& file, std::string_view flag, std::string_view key, const TokenizerSpec& spec,
             std::vector<TokenId>& end) {
  if (!file.find_boolean(flag).value_or(false)) return;
  if (!file.has(key)) {
    fail(ErrorCode::kBadFormat, "{}: {} is true, but {} is missing", file.path(), flag, key);
  }
  end.push_back(token_id(file, key, spec));
}

}  // namespace

TokenizerSpec spec_from_gguf(const GgufFile& file) {
  TokenizerSpec spec;
  spec.source = file.path();
  if (const auto model = file.string("tokenizer.ggml.model"); model != "gpt2") {
    fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.model is '{}'; winnow knows gpt2 (byte-level BPE)",
         file.path(), printable(model));
  }
  choose_pretokenizer(std::string(file.string("tokenizer.ggml.pre")), spec);
  if (file.find_boolean("tokenizer.ggml.add_space_prefix").value_or(false)) {
    fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.add_space_prefix with byte-level BPE", file.path());
  }
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  spec.vocabulary =
      std::make_shared<const Vocabulary>(std::vector<std::string>(tokens.begin(), tokens.end()), spec.source);
  const auto merges = file.strings("tokenizer.ggml.merges");
  spec.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    spec.merges.push_back(resolve_merge(*spec.vocabulary, merges[i], i, spec.source));
  }
  spec.added = find_added(file, tokens);
  add_end(file, "tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", spec, spec.prefix);
  add_end(file, "tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", spec, spec.suffix);
  for (const std::string_view key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    if (file.has(key)) spec.stop_tokens.push_back(token_id(file, key, spec));
  }
  if (const auto text = file.find_string("tokenizer.chat_template")) spec.chat_template = std::string(*text);
  return spec;
}

}  // namespace winnow
