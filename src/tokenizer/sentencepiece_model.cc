// tokenizer.model: a serialised ModelProto of SentencePiece (sentencepiece_model.proto).
#include <algorithm>
#include <utility>

#include "core/byte_reader.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/loaders.h"
#include "tokenizer/proto_reader.h"
#include "tokenizer/sentencepiece.h"

namespace winnow {
namespace {

// TrainerSpec.model_type
constexpr std::int64_t kUnigram = 1, kBpe = 2, kWord = 3;

// What of the message matters, with the defaults of the format.
struct Model {
  SentencePieces pieces;
  std::int64_t type = kUnigram;
  bool spaces_behind = false, byte_fallback = false;
  std::int64_t begin_of_text = 1, end_of_text = 2;
  std::string_view normalizer, charsmap;
  bool dummy_prefix = true, fewer_spaces = true, escape_spaces = true;
};

void read_piece(std::string_view bytes, const std::string& source, SentencePieces& pieces) {
  const std::string where = source + ": token " + std::to_string(pieces.spellings.size());
  ProtoReader fields(bytes, where);
  std::string_view spelling;
  float score = 0;
  PieceType type = PieceType::kNormal;
  while (fields.next()) {
    switch (fields.number()) {
      case 1: spelling = fields.text(); break;
      case 2: score = fields.float32(); break;
      case 3: type = piece_type(fields.integer(), where); break;
      default: break;
    }
  }
  pieces.spellings.emplace_back(spelling);
  pieces.scores.push_back(score);
  pieces.types.push_back(type);
}

void read_trainer(std::string_view bytes, const std::string& source, Model& model) {
  ProtoReader fields(bytes, source + ": trainer_spec");
  while (fields.next()) {
    switch (fields.number()) {
      case 3: model.type = fields.integer(); break;
      case 24: model.spaces_behind = fields.boolean(); break;
      case 35: model.byte_fallback = fields.boolean(); break;
      case 41: model.begin_of_text = fields.integer(); break;
      case 42: model.end_of_text = fields.integer(); break;
      default: break;
    }
  }
}

void read_normalizer(std::string_view bytes, const std::string& source, Model& model) {
  ProtoReader fields(bytes, source + ": normalizer_spec");
  while (fields.next()) {
    switch (fields.number()) {
      case 1: model.normalizer = fields.text(); break;
      case 2: model.charsmap = fields.text(); break;
      case 3: model.dummy_prefix = fields.boolean(); break;
      case 4: model.fewer_spaces = fields.boolean(); break;
      case 5: model.escape_spaces = fields.boolean(); break;
      default: break;
    }
  }
}

Model read_model(std::string_view bytes, const std::string& source) {
  Model model;
  ProtoReader fields(bytes, source);
  while (fields.next()) {
    switch (fields.number()) {
      case 1: read_piece(fields.text(), source, model.pieces); break;
      case 2: read_trainer(fields.text(), source, model); break;
      case 3: read_normalizer(fields.text(), source, model); break;
      default: break;  // self tests and the like
    }
  }
  return model;
}

std::string_view model_type_name(std::int64_t type) {
  return type == kUnigram ? "unigram" : type == kWord ? "word" : "char or unknown";
}

void check_supported(const Model& model, const std::string& source) {
  const auto refuse = [&](std::string_view key, std::string_view value) {
    fail(ErrorCode::kUnsupported, "{}: {} {} is not supported", source, key, printable(value));
  };
  if (model.type != kBpe) {
    fail(ErrorCode::kUnsupported, "{}: the SentencePiece model is of the type {} ({}); winnow runs BPE",
         source, model.type, model_type_name(model.type));
  }
  if (!model.charsmap.empty()) refuse("the normalizer", model.normalizer);
  if (model.fewer_spaces) refuse("normalizer_spec.remove_extra_whitespaces", "true");
  if (!model.escape_spaces) refuse("normalizer_spec.escape_whitespaces", "false");
  if (model.spaces_behind) refuse("trainer_spec.treat_whitespace_as_suffix", "true");
}

void check_bytes(const Model& model, const TokenizerSpec& spec) {
  if (model.byte_fallback == spec.bpe.byte_fallback) return;
  fail(ErrorCode::kBadFormat, "{}: trainer_spec.byte_fallback is {}, but there are {}tokens of that type",
       spec.source, model.byte_fallback, model.byte_fallback ? "no " : "");
}

std::optional<TokenId> control_token(std::int64_t id, std::string_view key, const TokenizerSpec& spec) {
  if (id < 0) return std::nullopt;  // none
  if (id >= spec.vocabulary->size()) {
    fail(ErrorCode::kBadFormat, "{}: trainer_spec.{} is {}, but there are {} tokens", spec.source, key, id,
         spec.vocabulary->size());
  }
  return static_cast<TokenId>(id);
}

// Added tokens stand behind the model's own, or say that one of these is to be found in text.
void add_tokens(std::vector<AddedToken> added, const std::string& source, SentencePieces& pieces) {
  std::sort(added.begin(), added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  for (const AddedToken& token : added) {
    const auto id = static_cast<std::size_t>(token.id);
    if (id > pieces.spellings.size()) {
      fail(ErrorCode::kBadFormat, "{}: the added token '{}' has the id {}, but there are {} tokens", source,
           printable(token.content), id, pieces.spellings.size());
    }
    if (id == pieces.spellings.size()) {
      pieces.spellings.push_back(token.content);
      pieces.scores.push_back(0);
      pieces.types.push_back(PieceType::kNormal);
    }
    if (pieces.spellings[id] != token.content) {
      fail(ErrorCode::kBadFormat, "{}: token {} is '{}', as an added token '{}'", source, id,
           printable(pieces.spellings[id]), printable(token.content));
    }
    PieceType& type = pieces.types[id];
    if (type == PieceType::kUnknown || type == PieceType::kByte) continue;
    type = token.special ? PieceType::kControl : PieceType::kUserDefined;
  }
}

}  // namespace

SentencePieces read_sentence_pieces(std::string_view bytes, const std::string& source) {
  return read_model(bytes, source).pieces;
}

TokenizerSpec spec_from_sentencepiece(std::string_view bytes, std::vector<AddedToken> added,
                                      const std::string& source) {
  Model model = read_model(bytes, source);
  if (model.pieces.spellings.empty()) fail(ErrorCode::kBadFormat, "{}: there are no tokens", source);
  check_supported(model, source);
  add_tokens(std::move(added), source, model.pieces);
  TokenizerSpec spec;
  spec.source = source;
  add_sentence_pieces(std::move(model.pieces), model.dummy_prefix, spec);
  check_bytes(model, spec);
  spec.begin_of_text = control_token(model.begin_of_text, "bos_id", spec);
  spec.end_of_text = control_token(model.end_of_text, "eos_id", spec);
  if (spec.end_of_text) spec.stop_tokens.push_back(*spec.end_of_text);
  return spec;
}

TokenizerSpec spec_from_sentencepiece(const ModelFiles& files) {
  const nlohmann::json config =
      files.read_if_present("tokenizer_config.json").value_or(nlohmann::json::object());
  const JsonField root(config, files.path("tokenizer_config.json") + ": ");
  const MappedFile file(files.path("tokenizer.model"));
  TokenizerSpec spec = spec_from_sentencepiece(
      file.text(), read_added_tokens_decoder(root["added_tokens_decoder"]), file.path());
  // The tokenizers of Llama, Mistral and Gemma begin every text with this token unless told otherwise.
  if (root["add_bos_token"].boolean_or(true) && spec.begin_of_text) {
    spec.prefix.push_back(*spec.begin_of_text);
  }
  if (root["add_eos_token"].boolean_or(false) && spec.end_of_text) {
    spec.suffix.push_back(*spec.end_of_text);
  }
  return spec;
}

}  // namespace winnow
