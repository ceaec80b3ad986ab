#include "tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/byte_reader.h"
#include "core/error.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/chat_forms.h"
#include "tokenizer/utf8.h"

namespace winnow {
namespace {

// The bytes a token spelled in plain characters stands for: the sign for a space is one, <0x0A> a line end.
std::string piece_bytes(const std::string& spelling, bool byte_fallback) {
  if (byte_fallback && spelling.size() == 6 && spelling.starts_with("<0x")) {
    for (int byte = 0; byte < 256; ++byte) {
      const auto c = static_cast<unsigned char>(byte);
      if (spelling == byte_token(c)) return std::string(1, static_cast<char>(c));
    }
  }
  return replace_all(spelling, kSpaceSign, " ");
}

}  // namespace

// encode() is const and may run on several threads: each call takes a cache of its own and gives it back.
class BpeTokenizer::BorrowedScratch {
 public:
  explicit BorrowedScratch(const BpeTokenizer& owner) : owner_(owner) {
    {
      const std::lock_guard lock(owner.idle_mutex_);
      if (!owner.idle_.empty()) {
        scratch_ = std::move(owner.idle_.back());
        owner.idle_.pop_back();
      }
    }
    if (!scratch_) scratch_ = std::make_unique<Scratch>();
  }
  ~BorrowedScratch() {
    const std::lock_guard lock(owner_.idle_mutex_);
    owner_.idle_.push_back(std::move(scratch_));
  }
  BorrowedScratch(const BorrowedScratch&) = delete;
  BorrowedScratch& operator=(const BorrowedScratch&) = delete;

  Scratch& operator*() const { return *scratch_; }

 private:
  const BpeTokenizer& owner_;
  std::unique_ptr<Scratch> scratch_;
};

void normalise_added(TokenizerSpec& spec) {
  for (AddedToken& token : spec.added) {
    std::string storage;
    if (token.normalized) token.pattern = spec.normalizer.apply(token.content, storage);
  }
}

// Tokens a chat template uses as marks are control tokens even where the files call them ordinary added ones:
// a conversation's text must not be able to write them.
TokenizerSpec BpeTokenizer::complete(TokenizerSpec spec) {
  if (const auto chat = spec.chat_template ? ChatTemplate::recognise(*spec.chat_template) : std::nullopt) {
    for (AddedToken& token : spec.added) token.special = token.special || chat->has_mark(token.content);
  }
  spec.bpe.control.assign(static_cast<std::size_t>(spec.vocabulary->size()), false);
  for (const AddedToken& token : spec.added) {
    if (token.id < 0 || token.id >= spec.vocabulary->size()) continue;  // an error of check_id()
    spec.bpe.control[static_cast<std::size_t>(token.id)] = token.special;
  }
  if (spec.bpe.alphabet == AlphabetKind::kCharacters && !spec.bpe.ignore_merges) {
    spec.pretokenizer.add(make_safe_space_splitter(*spec.vocabulary, spec.merges));
  }
  return spec;
}

BpeTokenizer::BpeTokenizer(TokenizerSpec spec)
    : spec_(complete(std::move(spec))), bpe_(spec_.vocabulary, spec_.merges, spec_.bpe, spec_.source) {
  spec_.merges = {};
  add_tokens();
  set_token_bytes();
  add_stop_tokens();
  for (const TokenId id : spec_.prefix) check_id(id, "the token before a text");
  for (const TokenId id : spec_.suffix) check_id(id, "the token after a text");
  if (spec_.chat_template) chat_template_ = ChatTemplate::recognise(*spec_.chat_template);
}

void BpeTokenizer::check_id(TokenId id, std::string_view what) const {
  if (id >= 0 && id < spec_.vocabulary->size()) return;
  fail(ErrorCode::kBadFormat, "{}: {} is {}, but ids go from 0 to {}", spec_.source, what, id,
       spec_.vocabulary->size() - 1);
}

void BpeTokenizer::add_tokens() {
  for (const AddedToken& token : spec_.added) {
    check_id(token.id, "the id of an added token");
    (token.normalized ? normalized_added_ : raw_added_).add(token);
  }
}

void BpeTokenizer::set_token_bytes() {
  for (TokenId id = 0; id < spec_.vocabulary->size(); ++id) {
    const std::string& spelling = spec_.vocabulary->spelling(id);
    bytes_.push_back(spec_.bpe.alphabet == AlphabetKind::kBytes
                         ? alphabet_bytes(spelling).value_or(spelling)
                         : piece_bytes(spelling, spec_.bpe.byte_fallback));
  }
  for (const AddedToken& token : spec_.added) {
    const bool pieces = spec_.bpe.alphabet == AlphabetKind::kCharacters && !token.special;
    bytes_[static_cast<std::size_t>(token.id)] =
        pieces ? piece_bytes(token.content, /*byte_fallback=*/false) : token.content;
  }
}

// Files often name one end-of-sequence token and leave out the end of a turn (GGUF) or of a document.
void BpeTokenizer::add_stop_tokens() {
  for (const TokenId id : spec_.stop_tokens) check_id(id, "the end-of-text token");
  for (const std::string_view text :
       {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<end_of_turn>"}) {
    const TokenId id = spec_.vocabulary->find(text);
    if (id >= 0 && is_control(id)) spec_.stop_tokens.push_back(id);
  }
  std::vector<TokenId> unique;
  for (const TokenId id : spec_.stop_tokens) {
    if (std::find(unique.begin(), unique.end(), id) == unique.end()) unique.push_back(id);
  }
  spec_.stop_tokens = std::move(unique);
}

std::vector<TokenId> BpeTokenizer::encode(std::string_view text, bool parse_special) const {
  const BorrowedScratch scratch(*this);
  std::vector<TokenId> ids = spec_.prefix;
  ids.reserve(ids.size() + text.size() / 4 + 8);
  encode_text(text, parse_special, /*begins=*/true, *scratch, ids);
  ids.insert(ids.end(), spec_.suffix.begin(), spec_.suffix.end());
  return ids;
}

void BpeTokenizer::encode_text(std::string_view text, bool parse_special, bool begins, Scratch& scratch,
                               std::vector<TokenId>& ids) const {
  if (text.size() > std::numeric_limits<std::int32_t>::max()) {
    fail(ErrorCode::kBadArgument, "a text of {} bytes is too long to tokenise at once", text.size());
  }
  if (utf8_valid_prefix(text) == text.size()) return encode_raw(text, parse_special, begins, scratch, ids);
  encode_raw(utf8_repair(text), parse_special, begins, scratch, ids);
}

void BpeTokenizer::encode_raw(std::string_view text, bool parse_special, bool begins, Scratch& scratch,
                              std::vector<TokenId>& ids) const {
  std::string storage;
  for (const TextPiece& piece : raw_added_.split(text, parse_special)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      encode_normalized(spec_.normalizer.apply(piece.text, storage), parse_special, begins, scratch, ids);
    }
    begins = false;
  }
}

void BpeTokenizer::encode_normalized(std::string_view text, bool parse_special, bool begins, Scratch& scratch,
                                     std::vector<TokenId>& ids) const {
  for (const TextPiece& piece : normalized_added_.split(text, parse_special)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      scratch.words.begins_text = begins;
      spec_.pretokenizer.split(piece.text, scratch.words);
      for (const std::string_view word : scratch.words.pieces) bpe_.encode(word, scratch.cache, ids);
    }
    begins = false;
  }
}

std::size_t BpeTokenizer::index_of(TokenId id) const {
  if (id < 0 || id >= spec_.vocabulary->size()) {
    fail(ErrorCode::kBadArgument, "there is no token {}: {} has {}", id, spec_.source,
         spec_.vocabulary->size());
  }
  return static_cast<std::size_t>(id);
}

std::string_view BpeTokenizer::token_bytes(TokenId id) const { return bytes_[index_of(id)]; }

bool BpeTokenizer::is_control(TokenId id) const { return spec_.bpe.control[index_of(id)]; }

// The control token a piece of a conversation stands for; nothing when it is text.
std::optional<TokenId> BpeTokenizer::control_of(const ChatPiece& piece) const {
  using Kind = ChatPiece::Kind;
  if (piece.kind == Kind::kText) return std::nullopt;
  if (piece.kind == Kind::kBeginOfText || piece.kind == Kind::kEndOfText) {
    const bool begin = piece.kind == Kind::kBeginOfText;
    const std::optional<TokenId> id = begin ? spec_.begin_of_text : spec_.end_of_text;
    if (id) return id;
    fail(ErrorCode::kBadFormat,
         "{}: the chat template needs the {}-of-text token, which the files do not name", spec_.source,
         begin ? "begin" : "end");
  }
  const TokenId id = spec_.vocabulary->find(piece.text);
  if (id >= 0 && is_control(id)) return id;
  if (piece.kind == Kind::kMark) return std::nullopt;
  fail(ErrorCode::kBadFormat, "{}: the chat template needs {}, which is no control token here", spec_.source,
       piece.text);
}

std::vector<TokenId> BpeTokenizer::encode_chat(const std::vector<ChatMessage>& messages,
                                               bool add_generation_prompt) const {
  if (!spec_.chat_template) {
    fail(ErrorCode::kUnsupported, "{}: the model has no chat template; give it plain text", spec_.source);
  }
  if (!chat_template_) {
    fail(ErrorCode::kUnsupported,
         "{}: winnow does not know this model's chat template (it knows {}); give it plain text",
         spec_.source, kKnownChatForms);
  }
  const BorrowedScratch scratch(*this);
  std::vector<TokenId> ids;
  std::string text;  // up to the next control token
  const auto flush = [&] {
    encode_text(text, /*parse_special=*/false, /*begins=*/ids.empty(), *scratch, ids);
    text.clear();
  };
  for (const ChatPiece& piece : chat_template_->render(messages, add_generation_prompt)) {
    if (const auto id = control_of(piece)) {
      flush();
      ids.push_back(*id);
    } else {
      text += piece.text;
    }
  }
  flush();
  return ids;
}

}  // namespace winnow
