// The tokens of a text file, for the programs that measure on real text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/mapped_file.h"
#include "runtime/session.h"

namespace winnow {

// By the model's tokenizer. Throws Error for a file that cannot be read, and if there are fewer than
// `needed`.
inline std::vector<TokenId> text_tokens(const std::string& model, const std::string& path,
                                        std::int64_t needed) {
  std::vector<TokenId> tokens =
      open_tokenizer(model)->encode(MappedFile(path).text(), /*parse_special=*/false);
  if (std::ssize(tokens) < needed) {
    fail(ErrorCode::kBadArgument, "{}: {} tokens are too few, {} are needed", path, tokens.size(), needed);
  }
  return tokens;
}

}  // namespace winnow
