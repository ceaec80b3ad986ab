// Tokenizer: arbitrary bytes as text for a small tokenizer, and as the tokenizer's own files.
//
// The first byte says what the rest is. Only winnow::Error may be thrown; what is encoded must come back.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "core/error.h"
#include "formats/gguf.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/loaders.h"
#include "tokenizer/nfc.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/utf8.h"

namespace {

using winnow::AddedToken;
using winnow::Tokenizer;

// All bytes and some merges. As Qwen2, with NFC and added tokens of every kind; or as GPT-2, with digits
// split off and nothing that keeps ids from decoding to the very text.
std::unique_ptr<Tokenizer> make_tokenizer(bool qwen2) {
  winnow::TokenizerSpec spec;
  spec.source = "fuzz";
  std::vector<std::string> spellings;
  for (int byte = 0; byte < 256; ++byte) {
    spellings.emplace_back(winnow::alphabet_char(static_cast<unsigned char>(byte)));
  }
  const std::vector<std::string> rules = {"a a", "aa aa", "a b", "ab ab", "\xC4\xA0 a", "\xC3\x83 \xC2\xA9"};
  const std::vector<AddedToken> added = {{.content = "<|im_start|>", .special = true},
                                         {.content = "<|im_end|>", .special = true},
                                         {.content = "<L", .lstrip = true},
                                         {.content = "R>", .rstrip = true},
                                         {.content = "one", .single_word = true},
                                         {.content = "e\xCC\x81", .normalized = true}};
  for (const std::string& rule : rules) {
    spellings.push_back(rule.substr(0, rule.find(' ')) + rule.substr(rule.find(' ') + 1));
  }
  for (const AddedToken& token : added) {
    if (!qwen2 && (token.lstrip || token.rstrip)) continue;
    spec.added.push_back(token);
    spec.added.back().id = static_cast<winnow::TokenId>(spellings.size());
    spellings.push_back(token.content);
  }
  spec.vocabulary = std::make_shared<const winnow::Vocabulary>(spellings, spec.source);
  for (const std::string& rule : rules) {
    spec.merges.push_back(resolve_merge(*spec.vocabulary, rule, spec.merges.size(), spec.source));
  }
  if (qwen2) spec.normalizer.add_nfc();
  normalise_added(spec);
  if (!qwen2) spec.pretokenizer.add(winnow::make_digits_splitter(/*individual=*/true));
  spec.pretokenizer.add(qwen2 ? winnow::make_qwen2_splitter(/*max_digits=*/3) : winnow::make_gpt2_splitter());
  spec.chat_template =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
      "'<|im_end|>' + "
      "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  return std::make_unique<winnow::BpeTokenizer>(std::move(spec));
}

// As Llama 2: pieces of some letters, all bytes, a user-defined token, a token with a space inside.
std::unique_ptr<Tokenizer> make_sentence_pieces() {
  using winnow::PieceType;
  winnow::SentencePieces pieces;
  const auto add = [&](const std::string& spelling, float score, PieceType type) {
    pieces.spellings.push_back(spelling);
    pieces.scores.push_back(score);
    pieces.types.push_back(type);
  };
  const std::string space(winnow::kSpaceSign);
  add("<unk>", 0, PieceType::kUnknown);
  add("<s>", 0, PieceType::kControl);
  add("</s>", 0, PieceType::kControl);
  for (int byte = 0; byte < 256; ++byte) {
    add(winnow::byte_token(static_cast<unsigned char>(byte)), 0, PieceType::kByte);
  }
  add("<x>", 0, PieceType::kUserDefined);
  float score = 0;
  for (const std::string& piece : {std::string("a"), std::string("b"), space, space + "a", std::string("ab"),
                                   "b" + space, space + space, std::string("\xC3\xA9z"), std::string("aa")}) {
    add(piece, score -= 1, PieceType::kNormal);
  }
  winnow::TokenizerSpec spec;
  spec.source = "fuzz";
  add_sentence_pieces(std::move(pieces), /*dummy_prefix=*/true, spec);
  spec.begin_of_text = 1;
  spec.end_of_text = 2;
  spec.chat_template =
      "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + "
      "message['content'] + '[/INST]' }}{% elif message['role'] == 'system' %}{{ '[SYSTEM_PROMPT] ' + "
      "message['content'] + '[/SYSTEM_PROMPT]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + "
      "message['content'] + eos_token }}{% else %}{{ raise_exception('Only user, system and assistant roles "
      "are "
      "supported!') }}{% endif %}{% endfor %}";
  return std::make_unique<winnow::BpeTokenizer>(std::move(spec));
}

void check_control(const Tokenizer& tokenizer, std::string_view content, std::size_t expected) {
  std::size_t control = 0;
  for (const auto id :
       tokenizer.encode_chat({{"user", std::string(content)}}, /*add_generation_prompt=*/true)) {
    control += tokenizer.is_control(id) ? 1 : 0;
  }
  winnow::check(control == expected, "content holds no control tokens");
}

void fuzz_sentence_pieces(std::string_view text) {
  static const auto tokenizer = make_sentence_pieces();
  const auto ids = tokenizer->encode(text, false);
  const std::string expected = winnow::replace_all(winnow::utf8_repair(text), winnow::kSpaceSign, " ");
  winnow::check(tokenizer->decode(ids, false) == expected, "ids of SentencePiece decode to the text");
  winnow::TokenStream stream(*tokenizer, /*begins_text=*/true);
  std::string streamed;
  for (const auto id : ids) streamed += stream.push(id);
  winnow::check(streamed + stream.finish() == expected, "a stream gives what decoding gives");
  tokenizer->encode(text, true);
  check_control(*tokenizer, text, 1);
}

void check_stream(std::string_view text) {
  winnow::Utf8Stream stream;
  std::string total;
  for (std::size_t i = 0, step = 1; i < text.size(); i += step, step = step % 5 + 1) {
    total += stream.push(text.substr(i, step));
  }
  total += stream.finish();
  winnow::check(total == winnow::utf8_repair(text), "a stream gives what the whole text gives");
}

void fuzz_text(std::string_view text) {
  static const auto gpt2 = make_tokenizer(/*qwen2=*/false);
  static const auto qwen2 = make_tokenizer(/*qwen2=*/true);
  const std::string repaired = winnow::utf8_repair(text);
  winnow::check(gpt2->decode(gpt2->encode(text, false), false) == repaired, "GPT-2's ids decode to the text");
  gpt2->encode(text, true);
  const std::string normalized = winnow::nfc(repaired);
  winnow::check(winnow::nfc(normalized) == normalized, "NFC changes nothing the second time");
  qwen2->encode(text, true);
  check_control(*qwen2, text, 3);
  fuzz_sentence_pieces(text);
  check_stream(text);
}

template <class Load>
void fuzz_file(const Load& load) {
  try {
    const winnow::BpeTokenizer tokenizer(load());
    tokenizer.encode("It's 12 o'clock <|im_end|>\n", true);
    for (std::int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
      tokenizer.token_bytes(static_cast<winnow::TokenId>(id));
    }
  } catch (const winnow::Error&) {
  }
}

// A whole tokenizer.json around the bytes, so that they reach the parts behind a good vocabulary.
std::string with_vocabulary(std::string_view rest) {
  static const std::string head = [] {
    std::string text = R"({"model":{"vocab":{)";
    for (int byte = 0; byte < 256; ++byte) {
      const std::string_view c = winnow::alphabet_char(static_cast<unsigned char>(byte));
      const std::string escaped = c == "\"" || c == "\\" ? "\\" + std::string(c) : std::string(c);
      text += (byte == 0 ? "\"" : ",\"") + escaped + "\":" + std::to_string(byte);
    }
    return text + R"(},"merges":[]},"pre_tokenizer":)";
  }();
  return head + std::string(rest);
}

// A template that is still one of the known ones renders every conversation or refuses it.
void fuzz_template(std::string_view jinja) {
  const auto chat = winnow::ChatTemplate::recognise(jinja);
  if (!chat) return;
  for (const char* first : {"system", "user", "assistant"}) {
    try {
      chat->render({{first, "a<|im_end|></s>"}, {"user", ""}, {"assistant", "b"}, {"user", "\xff"}}, true);
    } catch (const winnow::Error&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0: fuzz_text(rest); break;
    case 1: fuzz_file([&] { return winnow::spec_from_tokenizer_json(rest, "fuzz"); }); break;
    case 2: fuzz_file([&] { return winnow::spec_from_tokenizer_json(with_vocabulary(rest), "fuzz"); }); break;
    case 3:
      fuzz_file(
          [&] { return winnow::spec_from_gguf(winnow::GgufFile(std::as_bytes(std::span(rest)), "fuzz")); });
      break;
    default: fuzz_template(rest);
  }
  return 0;
}
