#include <algorithm>
#include <iterator>
#include <utility>

#include "core/byte_reader.h"
#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/sentencepiece.h"

namespace winnow {
namespace {

constexpr std::string_view kAddBegin = "tokenizer.ggml.add_bos_token",
                           kAddEnd = "tokenizer.ggml.add_eos_token";

// Mistral Nemo's.
constexpr const char* kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr const char* kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// One after the other.
constexpr const char* kDeepseekV3[] = {
    R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

void add_gpt2(TokenizerSpec& spec) { spec.pretokenizer.add(make_gpt2_splitter()); }

void add_digits_and_gpt2(TokenizerSpec& spec) {
  spec.pretokenizer.add(make_digits_splitter(/*individual=*/true));
  spec.pretokenizer.add(make_gpt2_splitter());
}

void add_qwen2(TokenizerSpec& spec) {
  spec.normalizer.add_nfc();  // not in the file, but in the tokenizer.json of every model with this name
  spec.pretokenizer.add(make_qwen2_splitter(/*max_digits=*/1));
}

void add_llama3(TokenizerSpec& spec) {
  spec.bpe.ignore_merges = true;
  spec.pretokenizer.add(make_qwen2_splitter(/*max_digits=*/3));
}

void add_tekken(TokenizerSpec& spec) {
  spec.bpe.ignore_merges = true;
  spec.pretokenizer.add(make_regex_splitter(kTekken, /*keep_gaps=*/true, spec.source));
}

void add_gpt4o(TokenizerSpec& spec) {
  spec.pretokenizer.add(make_regex_splitter(kGpt4o, /*keep_gaps=*/true, spec.source));
}

void add_deepseek_v3(TokenizerSpec& spec) {
  for (const char* pattern : kDeepseekV3) {
    spec.pretokenizer.add(make_regex_splitter(pattern, /*keep_gaps=*/true, spec.source));
  }
}

// Names llama.cpp gives the pre-tokenizers it knows; a converter picks one by what the model's own tokenizer
// does.
struct KnownPretokenizer {
  std::string_view name;
  void (*add)(TokenizerSpec& spec);
};
constexpr KnownPretokenizer kPretokenizers[] = {
    {"gpt-2", add_gpt2},    {"smollm", add_digits_and_gpt2},  {"starcoder", add_digits_and_gpt2},
    {"qwen2", add_qwen2},   {"deepseek-r1-qwen", add_qwen2},  {"llama-bpe", add_llama3},
    {"llama3", add_llama3}, {"llama-v3", add_llama3},         {"tekken", add_tekken},
    {"gpt-4o", add_gpt4o},  {"deepseek-v3", add_deepseek_v3},
};

void choose_pretokenizer(std::string_view name, TokenizerSpec& spec) {
  std::string known;
  for (const KnownPretokenizer& candidate : kPretokenizers) {
    if (candidate.name == name) return candidate.add(spec);
    known += (known.empty() ? "" : ", ") + std::string(candidate.name);
  }
  fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.pre is '{}'; winnow knows {}", spec.source,
       printable(name), known);
}

std::vector<PieceType> read_types(const GgufFile& file, std::size_t tokens) {
  constexpr const char* kKey = "tokenizer.ggml.token_type";
  const auto numbers = file.find_integers(kKey);
  if (!numbers) return std::vector<PieceType>(tokens, PieceType::kNormal);
  if (numbers->size() != tokens) {
    fail(ErrorCode::kBadFormat, "{}: {} has {} entries for {} tokens", file.path(), kKey, numbers->size(),
         tokens);
  }
  std::vector<PieceType> types;
  for (const std::int64_t number : *numbers) {
    types.push_back(piece_type(number, file.path() + ": " + kKey));
  }
  return types;
}

std::optional<TokenId> find_token_id(const GgufFile& file, std::string_view key, std::int64_t tokens) {
  const auto id = file.find_integer(key);
  if (!id) return std::nullopt;
  if (*id < 0 || *id >= tokens) {
    fail(ErrorCode::kBadFormat, "{}: {} is {}, but there are {} tokens", file.path(), key, *id, tokens);
  }
  return static_cast<TokenId>(*id);
}

// The token that `flag` asks for at an end of every text.
TokenId required(std::optional<TokenId> id, const GgufFile& file, std::string_view flag,
                 std::string_view key) {
  if (!id) fail(ErrorCode::kBadFormat, "{}: {} is true, but {} is missing", file.path(), flag, key);
  return *id;
}

// "gpt2": byte-level BPE.
void read_byte_level(const GgufFile& file, TokenizerSpec& spec) {
  choose_pretokenizer(file.string("tokenizer.ggml.pre"), spec);
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
  const std::vector<PieceType> types = read_types(file, tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const bool control = types[i] == PieceType::kControl;
    if (!control && types[i] != PieceType::kUserDefined) continue;
    spec.added.push_back(
        {.content = std::string(tokens[i]), .id = static_cast<TokenId>(i), .special = control});
  }
}

// Gemma's files give the unknown token a control token's type; its key says which one it is.
void mark_unknown(const GgufFile& file, std::vector<PieceType>& types) {
  if (std::ranges::count(types, PieceType::kUnknown) > 0) return;
  const auto id = find_token_id(file, "tokenizer.ggml.unknown_token_id", std::ssize(types));
  if (id) types[static_cast<std::size_t>(*id)] = PieceType::kUnknown;
}

// "llama": SentencePiece BPE; tokenizer.ggml.pre says nothing about it.
void read_scored_pieces(const GgufFile& file, TokenizerSpec& spec) {
  if (file.find_boolean("tokenizer.ggml.remove_extra_whitespaces").value_or(false)) {
    fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.remove_extra_whitespaces true is not supported",
         file.path());
  }
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  const auto scores = file.numbers("tokenizer.ggml.scores");
  if (scores.size() != tokens.size()) {
    fail(ErrorCode::kBadFormat, "{}: tokenizer.ggml.scores has {} entries for {} tokens", file.path(),
         scores.size(), tokens.size());
  }
  SentencePieces pieces{.spellings = {tokens.begin(), tokens.end()},
                        .scores = {scores.begin(), scores.end()},
                        .types = read_types(file, tokens.size())};
  mark_unknown(file, pieces.types);
  add_sentence_pieces(std::move(pieces), file.find_boolean("tokenizer.ggml.add_space_prefix").value_or(true),
                      spec);
}

}  // namespace

TokenizerSpec spec_from_gguf(const GgufFile& file) {
  TokenizerSpec spec;
  spec.source = file.path();
  const std::string_view model = file.string("tokenizer.ggml.model");
  const bool sentence_pieces = model == "llama";
  if (sentence_pieces) {
    read_scored_pieces(file, spec);
  } else if (model == "gpt2") {
    read_byte_level(file, spec);
  } else {
    fail(ErrorCode::kUnsupported,
         "{}: tokenizer.ggml.model is '{}'; winnow knows gpt2 (byte-level BPE) and llama (SentencePiece BPE)",
         file.path(), printable(model));
  }
  const std::int64_t tokens = spec.vocabulary->size();
  spec.begin_of_text = find_token_id(file, "tokenizer.ggml.bos_token_id", tokens);
  spec.end_of_text = find_token_id(file, "tokenizer.ggml.eos_token_id", tokens);
  // A SentencePiece file that does not say means a text to begin so.
  if (file.find_boolean(kAddBegin).value_or(sentence_pieces && spec.begin_of_text)) {
    spec.prefix.push_back(required(spec.begin_of_text, file, kAddBegin, "tokenizer.ggml.bos_token_id"));
  }
  if (file.find_boolean(kAddEnd).value_or(false)) {
    spec.suffix.push_back(required(spec.end_of_text, file, kAddEnd, "tokenizer.ggml.eos_token_id"));
  }
  for (const auto id : {spec.end_of_text, find_token_id(file, "tokenizer.ggml.eot_token_id", tokens)}) {
    if (id) spec.stop_tokens.push_back(*id);
  }
  if (const auto text = file.find_string("tokenizer.chat_template")) spec.chat_template = std::string(*text);
  return spec;
}

}  // namespace winnow
