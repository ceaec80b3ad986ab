#include "tokenizer/sentencepiece.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <unordered_map>
#include <utility>

#include "core/byte_reader.h"
#include "core/error.h"
#include "tokenizer/utf8.h"

namespace winnow {
namespace {

constexpr std::size_t kMaxPieceBytes = 4096;  // the longest of Gemma's has 93

// Turns "what is joined is the piece with the best score" into ranked pairs: every way to cut a piece in two
// is a rule, and rules of equally good pieces share a rank.
class ScoreRules {
 public:
  ScoreRules(const SentencePieces& pieces, TokenizerSpec& spec) : pieces_(pieces), spec_(spec) {
    for (std::size_t id = 0; id < pieces_.scores.size(); ++id) {
      if (std::isnan(pieces_.scores[id])) {
        fail(ErrorCode::kBadFormat, "{}: the score of token {} is no number", spec_.source, id);
      }
    }
    scores_ = pieces_.scores;
    std::sort(scores_.begin(), scores_.end(), std::greater<>());
    scores_.erase(std::unique(scores_.begin(), scores_.end()), scores_.end());
  }

  void run() {
    for (TokenId id = 0; id < spec_.vocabulary->size(); ++id) {
      if (is_mergeable(id)) add_rules_of(id);
    }
  }

 private:
  PieceType type(TokenId id) const { return pieces_.types[static_cast<std::size_t>(id)]; }
  bool is_mergeable(TokenId id) const {
    return type(id) == PieceType::kNormal || type(id) == PieceType::kUnused;
  }

  void add_rules_of(TokenId id) {
    const std::string& piece = spec_.vocabulary->spelling(id);
    if (piece.size() > kMaxPieceBytes) {
      fail(ErrorCode::kUnsupported, "{}: token {} has {} bytes; {} are supported", spec_.source, id,
           piece.size(), kMaxPieceBytes);
    }
    std::size_t bytes = 0;
    utf8_decode(piece.data(), bytes);
    for (std::size_t cut = bytes; cut < piece.size(); cut += bytes) {
      add_rule(id, std::string_view(piece).substr(0, cut), std::string_view(piece).substr(cut));
      utf8_decode(piece.data() + cut, bytes);
    }
  }

  void add_rule(TokenId result, std::string_view left, std::string_view right) {
    if (!is_symbol(left) || !is_symbol(right)) return;
    if (type(result) == PieceType::kUnused) {
      fail(ErrorCode::kUnsupported, "{}: token {} ('{}') is marked as unused but can be merged", spec_.source,
           result, printable(spec_.vocabulary->spelling(result)));
    }
    const float score = pieces_.scores[static_cast<std::size_t>(result)];
    const auto place = std::lower_bound(scores_.begin(), scores_.end(), score, std::greater<>());
    spec_.merges.push_back(
        {symbol_of(left), symbol_of(right), result, static_cast<std::uint32_t>(place - scores_.begin())});
  }

  TokenId find(std::string_view part) const {
    const TokenId id = spec_.vocabulary->find(part);
    return id >= 0 && is_mergeable(id) ? id : -1;
  }

  // Merging begins with characters, so one that is no piece is still a symbol.
  bool is_symbol(std::string_view part) const {
    std::size_t bytes = 0;
    utf8_decode(part.data(), bytes);
    return bytes == part.size() || find(part) >= 0;
  }

  TokenId symbol_of(std::string_view part) {
    if (const TokenId id = find(part); id >= 0) return id;
    const auto next = spec_.vocabulary->size() + static_cast<TokenId>(spec_.bpe.unspoken.size());
    const auto [place, is_new] = unspoken_.try_emplace(std::string(part), next);
    if (is_new) spec_.bpe.unspoken.emplace_back(part);
    return place->second;
  }

  const SentencePieces& pieces_;
  TokenizerSpec& spec_;
  std::vector<float> scores_;  // of all pieces, best first, each once: a score's place is its rank
  std::unordered_map<std::string, TokenId> unspoken_;
};

void check_spellings(const SentencePieces& pieces, const std::string& source) {
  for (std::size_t id = 0; id < pieces.spellings.size(); ++id) {
    const std::string& spelling = pieces.spellings[id];
    if (spelling.empty() || utf8_valid_prefix(spelling) != spelling.size()) {
      fail(ErrorCode::kBadFormat, "{}: token {} is {}", source, id,
           spelling.empty() ? "empty" : "not valid UTF-8");
    }
  }
}

void add_special_pieces(const SentencePieces& pieces, TokenizerSpec& spec) {
  for (std::size_t i = 0; i < pieces.types.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    switch (pieces.types[i]) {
      case PieceType::kUnknown:
        if (spec.bpe.unknown >= 0) {
          fail(ErrorCode::kBadFormat, "{}: the tokens {} and {} are both the unknown token", spec.source,
               spec.bpe.unknown, id);
        }
        spec.bpe.unknown = id;
        [[fallthrough]];
      case PieceType::kControl:
        spec.added.push_back({.content = pieces.spellings[i], .id = id, .special = true});
        break;
      case PieceType::kUserDefined:
        spec.added.push_back({.content = pieces.spellings[i], .id = id, .normalized = true});
        break;
      case PieceType::kByte: spec.bpe.byte_fallback = true; break;
      case PieceType::kNormal:
      case PieceType::kUnused: break;
    }
  }
}

}  // namespace

PieceType piece_type(std::int64_t number, std::string_view where) {
  if (number < 1 || number > 6) {
    fail(ErrorCode::kBadFormat, "{}: {} is no type of a token (1 to 6)", where, number);
  }
  return static_cast<PieceType>(number);
}

void add_sentence_pieces(SentencePieces pieces, bool dummy_prefix, TokenizerSpec& spec) {
  check_spellings(pieces, spec.source);
  spec.bpe.alphabet = AlphabetKind::kCharacters;
  spec.bpe.fuse_unknown = true;
  spec.vocabulary = std::make_shared<const Vocabulary>(pieces.spellings, spec.source);
  add_special_pieces(pieces, spec);
  if (spec.bpe.unknown < 0) fail(ErrorCode::kBadFormat, "{}: there is no unknown token", spec.source);
  ScoreRules(pieces, spec).run();
  if (dummy_prefix) spec.normalizer.add_prepend(std::string(kSpaceSign));
  spec.normalizer.add_replace(" ", std::string(kSpaceSign));
  spec.drops_leading_space = dummy_prefix;
}

}  // namespace winnow
