// tokenizer.model: arbitrary bytes as a SentencePiece model. Only winnow::Error may be thrown.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/loaders.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const winnow::BpeTokenizer tokenizer(winnow::spec_from_sentencepiece(bytes, {}, "fuzz"));
    const auto ids = tokenizer.encode("It's 12 o'clock  <s>\n\xE6\xBC\xA2 \xC3\xA9", true);
    tokenizer.decode(ids, /*skip_control=*/true);
    for (std::int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
      tokenizer.token_bytes(static_cast<winnow::TokenId>(id));
    }
  } catch (const winnow::Error&) {
  }
  return 0;
}
