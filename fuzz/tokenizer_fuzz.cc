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
  spec.nfc = qwen2;
  if (!qwen2) spec.pretokenizer.add(winnow::make_digits_splitter(/*individual=*/true));
  spec.pretokenizer.add(qwen2 ? winnow::make_qwen2_splitter(/*max_digits=*/3) : winnow::make_gpt2_splitter());
  spec.chat_template =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
      "'<|im_end|>' + "
      "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  return std::make_unique<winnow::BpeTokenizer>(std::move(spec));
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
  std::size_t control = 0;
  for (const auto id : qwen2->encode_chat({{"user", std::string(text)}}, /*add_generation_prompt=*/true)) {
    control += qwen2->is_control(id) ? 1 : 0;
  }
  winnow::check(control == 3, "content holds no control tokens");
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
    default: winnow::ChatTemplate::recognise(rest);
  }
  return 0;
}
