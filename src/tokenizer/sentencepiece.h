// SentencePiece's BPE, from its pieces, scores and types: what tokenizer.model and GGUF files of Llama 2,
// Mistral and Gemma hold.
//
// Spaces become U+2581; the text becomes characters; of the neighbours that together are a piece the pair
// with the highest score is joined (leftmost of equals), until there is none; characters that are no piece
// become bytes. T. Kudo, J. Richardson, SentencePiece, EMNLP 2018; bpe_model.cc of its source. One rule is
// our own: bytes that are not UTF-8 become U+FFFD as in utf8.h, for all tokenizers alike.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/bpe_tokenizer.h"

namespace winnow {

// Numbered as in both files.
enum class PieceType : std::uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct SentencePieces {
  std::vector<std::string> spellings;  // by id
  std::vector<float> scores;           // the same length
  std::vector<PieceType> types;        // the same length
};

// The type with this number. Throws Error(kBadFormat) naming `where` when there is none.
PieceType piece_type(std::int64_t number, std::string_view where);

// Those of a serialised ModelProto (tokenizer.model). Throws Error(kBadFormat), with `source`.
SentencePieces read_sentence_pieces(std::string_view bytes, const std::string& source);

// Fills vocabulary, merges, normaliser, added tokens and decoding of `spec`, whose source is set.
// `dummy_prefix`: a text is encoded as if a space stood in front, also behind control tokens. Throws
// Error(kBadFormat) for pieces that contradict each other, Error(kUnsupported) for what winnow cannot do
// exactly.
void add_sentence_pieces(SentencePieces pieces, bool dummy_prefix, TokenizerSpec& spec);

}  // namespace winnow
