// Blocks of every element type, whatever their bytes: the first byte chooses the type.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/dequantize.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr int kTypes = static_cast<int>(winnow::DType::kQ8_K) + 1;
  if (size == 0) return 0;
  const auto dtype = static_cast<winnow::DType>(data[0] % kTypes);
  const winnow::DTypeInfo info = winnow::dtype_info(dtype);
  const std::size_t blocks = (size - 1) / static_cast<std::size_t>(info.block_bytes);
  const std::span<const std::uint8_t> bytes(data + 1, blocks * static_cast<std::size_t>(info.block_bytes));
  std::vector<float> out(blocks * static_cast<std::size_t>(info.block_elements));
  winnow::dequantize(dtype, std::as_bytes(bytes), out);
  return 0;
}
