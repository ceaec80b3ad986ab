// config.json of a Hugging Face folder.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "formats/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    winnow::parse_hf_config({reinterpret_cast<const char*>(data), size}, "fuzz/config.json").dump();
  } catch (const winnow::Error&) {
  }
  return 0;
}
