// Writes small SentencePiece models (protobuf) for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/loaders.h"
#include "tokenizer/sentencepiece.h"

namespace winnow {

inline std::string proto_varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

inline std::string proto_integer(std::uint32_t field, std::uint64_t value) {
  return proto_varint(field << 3) + proto_varint(value);
}

inline std::string proto_message(std::uint32_t field, const std::string& bytes) {
  return proto_varint(field << 3 | 2) + proto_varint(bytes.size()) + bytes;
}

inline std::string proto_float(std::uint32_t field, float value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return proto_varint(field << 3 | 5) + bytes;
}

// A BPE model whose first tokens are <unk>, <s> and </s>; identity normaliser, no fewer spaces.
struct SpModel {
  SentencePieces pieces;
  std::string trainer = proto_integer(3, 2), normalizer = proto_message(1, "identity") + proto_integer(4, 0);

  SpModel() {
    add("<unk>", 0, PieceType::kUnknown);
    add("<s>", 0, PieceType::kControl);
    add("</s>", 0, PieceType::kControl);
  }

  std::size_t size() const { return pieces.spellings.size(); }

  void add(const std::string& spelling, float score, PieceType type = PieceType::kNormal) {
    pieces.spellings.push_back(spelling);
    pieces.scores.push_back(score);
    pieces.types.push_back(type);
  }

  std::optional<float> score(const std::string& spelling) const {
    for (std::size_t i = 0; i < size(); ++i) {
      if (pieces.spellings[i] == spelling) return pieces.scores[i];
    }
    return std::nullopt;
  }

  std::string bytes() const {
    std::string model;
    for (std::size_t i = 0; i < size(); ++i) {
      model += proto_message(1, proto_message(1, pieces.spellings[i]) + proto_float(2, pieces.scores[i]) +
                                    proto_integer(3, static_cast<std::uint64_t>(pieces.types[i])));
    }
    return model + proto_message(2, trainer) + proto_message(3, normalizer);
  }

  TokenizerSpec spec() const { return spec_from_sentencepiece(bytes(), {}, "test"); }
};

}  // namespace winnow
