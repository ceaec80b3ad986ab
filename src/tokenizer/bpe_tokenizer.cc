#include "tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/byte_reader.h"
#include "core/error.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/nfc.h"
#include "tokenizer/utf8.h"

namespace winnow {

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

BpeTokenizer::BpeTokenizer(TokenizerSpec spec)
    : spec_(std::move(spec)), bpe_(spec_.vocabulary, spec_.merges, spec_.bpe, spec_.source) {
  spec_.merges = {};
  add_tokens();
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
  const auto size = static_cast<std::size_t>(spec_.vocabulary->size());
  bytes_.resize(size);
  control_.resize(size);
  std::vector<bool> added(size);
  for (const AddedToken& token : spec_.added) {
    check_id(token.id, "the id of an added token");
    AddedToken sought = token;
    if (token.normalized && spec_.nfc) sought.content = nfc(token.content);
    (token.normalized ? normalized_added_ : raw_added_).add(sought);
    bytes_[static_cast<std::size_t>(token.id)] = token.content;
    control_[static_cast<std::size_t>(token.id)] = token.special;
    added[static_cast<std::size_t>(token.id)] = true;
  }
  for (std::size_t id = 0; id < size; ++id) {
    if (added[id]) continue;
    const std::string& spelling = spec_.vocabulary->spelling(static_cast<TokenId>(id));
    bytes_[id] = alphabet_bytes(spelling).value_or(spelling);
  }
}

// Files often name one end-of-sequence token and leave out the end of a turn (GGUF) or of a document.
void BpeTokenizer::add_stop_tokens() {
  for (const TokenId id : spec_.stop_tokens) check_id(id, "the end-of-text token");
  for (const std::string_view text :
       {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"}) {
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
  encode_text(text, parse_special, *scratch, ids);
  ids.insert(ids.end(), spec_.suffix.begin(), spec_.suffix.end());
  return ids;
}

void BpeTokenizer::encode_text(std::string_view text, bool parse_special, Scratch& scratch,
                               std::vector<TokenId>& ids) const {
  if (text.size() > std::numeric_limits<std::int32_t>::max()) {
    fail(ErrorCode::kBadArgument, "a text of {} bytes is too long to tokenise at once", text.size());
  }
  if (utf8_valid_prefix(text) == text.size()) return encode_raw(text, parse_special, scratch, ids);
  encode_raw(utf8_repair(text), parse_special, scratch, ids);
}

void BpeTokenizer::encode_raw(std::string_view text, bool parse_special, Scratch& scratch,
                              std::vector<TokenId>& ids) const {
  for (const TextPiece& piece : raw_added_.split(text, parse_special)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else if (spec_.nfc && may_need_nfc(piece.text)) {
      encode_normalized(nfc(piece.text), parse_special, scratch, ids);
    } else {
      encode_normalized(piece.text, parse_special, scratch, ids);
    }
  }
}

void BpeTokenizer::encode_normalized(std::string_view text, bool parse_special, Scratch& scratch,
                                     std::vector<TokenId>& ids) const {
  for (const TextPiece& piece : normalized_added_.split(text, parse_special)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
      continue;
    }
    spec_.pretokenizer.split(piece.text, scratch.words);
    for (const std::string_view word : scratch.words.pieces) bpe_.encode(word, scratch.cache, ids);
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

bool BpeTokenizer::is_control(TokenId id) const { return control_[index_of(id)]; }

std::vector<TokenId> BpeTokenizer::encode_chat(const std::vector<ChatMessage>& messages,
                                               bool add_generation_prompt) const {
  if (!spec_.chat_template) {
    fail(ErrorCode::kUnsupported, "{}: the model has no chat template; give it plain text", spec_.source);
  }
  if (!chat_template_) {
    fail(ErrorCode::kUnsupported,
         "{}: winnow does not know this model's chat template (it knows ChatML as SmolLM2, Qwen2, Qwen2.5 "
         "and Qwen3 "
         "write it); give it plain text",
         spec_.source);
  }
  const BorrowedScratch scratch(*this);
  std::vector<TokenId> ids;
  for (const ChatPiece& piece : chat_template_->render(messages, add_generation_prompt)) {
    if (!piece.control) {
      encode_text(piece.text, /*parse_special=*/false, *scratch, ids);
      continue;
    }
    const TokenId id = spec_.vocabulary->find(piece.text);
    if (id < 0 || !is_control(id)) {
      fail(ErrorCode::kBadFormat, "{}: the chat template needs {}, which is no control token here",
           spec_.source, piece.text);
    }
    ids.push_back(id);
  }
  return ids;
}

}  // namespace winnow
