// The sources a TokenizerSpec is read from. Untrusted files: every fault is an Error naming the file and the
// key.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/model_files.h"

namespace winnow {

// tokenizer.json of Hugging Face's `tokenizers`: BPE over GPT-2's byte alphabet or over characters. Throws
// Error(kBadFormat) for what contradicts the format, Error(kUnsupported) naming any part winnow does not
// have.
TokenizerSpec spec_from_tokenizer_json(std::string_view text, const std::string& source);

// vocab.json + merges.txt, as GPT-2's and Qwen2's folders have them. tokenizer_class of tokenizer_config.json
// says whose pre-tokenizer to use; without it GPT-2's.
TokenizerSpec spec_from_vocab_merges(const ModelFiles& files);

// tokenizer.model, as Llama 2's, Mistral's and Gemma's folders have it, and which of its tokens
// tokenizer_config.json puts around a text. `added` are tokens from beside the file.
TokenizerSpec spec_from_sentencepiece(const ModelFiles& files);
TokenizerSpec spec_from_sentencepiece(std::string_view bytes, std::vector<AddedToken> added,
                                      const std::string& source);

// Tokens of tokenizer_config.json's added_tokens_decoder, {"50256": {"content": ..., "special": ...}}.
std::vector<AddedToken> read_added_tokens_decoder(const JsonField& decoder);

// An added token as tokenizer.json and added_tokens_decoder describe it.
AddedToken read_added_token(const JsonField& token, TokenId id);

// Adds what lies beside any of them: chat template and end-of-text tokens of tokenizer_config.json,
// generation_config.json, config.json and chat_template.jinja.
void add_model_config(const ModelFiles& files, TokenizerSpec& spec);

// tokenizer.ggml.* of a GGUF file whose tokenizer.ggml.model is "gpt2" (byte-level BPE) or "llama"
// (SentencePiece BPE). Throws Error(kUnsupported) for another model, and for a tokenizer.ggml.pre winnow does
// not know.
TokenizerSpec spec_from_gguf(const GgufFile& file);

}  // namespace winnow
