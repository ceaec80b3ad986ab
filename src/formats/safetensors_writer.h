// Writes safetensors: float32 tensors and text metadata, as formats/safetensors.h reads them.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace winnow {

struct TensorToWrite {
  std::string name;
  std::vector<std::int64_t> shape;  // slowest first
  std::span<const float> values;    // as many as the shape says
};

// The bytes of a file: the header padded with blanks to a multiple of 8, as the format's own library does.
// The same tensors in the same order and the same metadata give the same bytes.
std::string safetensors_bytes(std::span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace winnow
