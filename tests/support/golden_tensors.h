// Tensors of the golden .safetensors files.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace winnow {

template <class T>
std::vector<T> read_golden(const SafetensorsFile& file, const char* name) {
  const SafetensorsTensor* tensor = file.find(name);
  if (tensor == nullptr) throw std::runtime_error(std::string("golden tensor is missing: ") + name);
  std::vector<T> values(tensor->data.size() / sizeof(T));
  std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
  return values;
}

}  // namespace winnow
