// Safetensors files, and the index of sharded ones.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "formats/dequantize.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const winnow::SafetensorsFile file(bytes, "fuzz.safetensors");
    for (const auto& [name, tensor] : file.tensors()) {
      if (!tensor.dtype) continue;
      const std::int64_t element_bytes = winnow::dtype_info(*tensor.dtype).block_bytes;
      std::vector<float> values(tensor.data.size() / static_cast<std::size_t>(element_bytes));
      winnow::dequantize(*tensor.dtype, tensor.data, values);
    }
  } catch (const winnow::Error&) {
  }
  try {
    winnow::parse_safetensors_index({reinterpret_cast<const char*>(data), size}, "fuzz.index.json");
  } catch (const winnow::Error&) {
  }
  return 0;
}
