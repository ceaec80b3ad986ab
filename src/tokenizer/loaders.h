// The sources a TokenizerSpec is read from. Untrusted files: every fault is an Error naming the file and the
// key.
#pragma once

#include <string>
#include <string_view>

#include "formats/gguf.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/model_files.h"

namespace winnow {

// tokenizer.json of Hugging Face's `tokenizers`: BPE over GPT-2's byte alphabet. Throws Error(kBadFormat) for
// what contradicts the format, Error(kUnsupported) naming any part winnow does not have.
TokenizerSpec spec_from_tokenizer_json(std::string_view text, const std::string& source);

// vocab.json + merges.txt, as GPT-2's and Qwen2's folders have them. tokenizer_class of tokenizer_config.json
// says whose pre-tokenizer to use; without it GPT-2's.
TokenizerSpec spec_from_vocab_merges(const ModelFiles& files);

// Adds what lies beside either: chat template and end-of-text tokens of tokenizer_config.json,
// generation_config.json, config.json and chat_template.jinja.
void add_model_config(const ModelFiles& files, TokenizerSpec& spec);

// tokenizer.ggml.* of a GGUF file whose tokenizer.ggml.model is "gpt2". Throws Error(kUnsupported) for
// another model, and for a tokenizer.ggml.pre winnow does not know.
TokenizerSpec spec_from_gguf(const GgufFile& file);

}  // namespace winnow
