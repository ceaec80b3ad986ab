// Unicode normalisation form C (UAX 15), which Qwen's tokenizers apply before anything else.
//
// Own code because ids must be those of `tokenizers`, whose NFC knows Unicode 9, and because a run of a
// million combining marks must not take quadratic time, as it does in utf8proc's insertion sort.
#pragma once

#include <string>
#include <string_view>

namespace winnow {

// True when nfc(text) may differ from `text`: most text is told apart by a scan. `text` is valid UTF-8.
bool may_need_nfc(std::string_view text);

// `text`, valid UTF-8, in form C.
std::string nfc(std::string_view text);

}  // namespace winnow
