// The prompts file of winnow batch.
#include <cstddef>
#include <cstdint>
#include <string>

#include "cli/batch_prompts.h"
#include "core/check.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string text(reinterpret_cast<const char*>(data), size);
    for (const auto& prompt : winnow::cli::parse_prompts(text, "fuzz.jsonl")) {
      winnow::check(prompt.prompt.empty() || prompt.messages.empty(), "a text or messages, not both");
    }
  } catch (const winnow::Error&) {
  }
  return 0;
}
