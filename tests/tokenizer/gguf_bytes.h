// Writes the metadata of small GGUF files for tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/gguf.h"

namespace winnow {

// Writes GGUF metadata; no tensors.
class GgufBytes {
 public:
  void put_string(const std::string& key, const std::string& value) {
    begin(key, GgufType::kString), text(value);
  }
  void put_integer(const std::string& key, std::uint32_t value) {
    begin(key, GgufType::kUint32), number(value);
  }
  void put_boolean(const std::string& key, bool value) {
    begin(key, GgufType::kBool), number(static_cast<std::uint8_t>(value ? 1 : 0));
  }
  void put_strings(const std::string& key, const std::vector<std::string>& values) {
    begin_array(key, GgufType::kString, values.size());
    for (const std::string& value : values) text(value);
  }
  void put_floats(const std::string& key, const std::vector<float>& values) {
    begin_array(key, GgufType::kFloat32, values.size());
    for (const float value : values) number(value);
  }
  void put_integers(const std::string& key, const std::vector<std::int32_t>& values) {
    begin_array(key, GgufType::kInt32, values.size());
    for (const std::int32_t value : values) number(value);
  }

  std::string take() const {
    GgufBytes head;
    head.bytes_ = "GGUF";
    head.number(std::uint32_t{3});
    head.number(std::uint64_t{0});
    head.number(keys_);
    std::string file = head.bytes_ + bytes_;
    file.resize((file.size() + 31) / 32 * 32);
    return file;
  }

 private:
  template <class T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void text(const std::string& value) {
    number(std::uint64_t{value.size()});
    bytes_ += value;
  }
  void begin(const std::string& key, GgufType type) {
    text(key);
    number(static_cast<std::uint32_t>(type));
    ++keys_;
  }
  void begin_array(const std::string& key, GgufType type, std::size_t count) {
    begin(key, GgufType::kArray);
    number(static_cast<std::uint32_t>(type));
    number(std::uint64_t{count});
  }

  std::string bytes_;
  std::uint64_t keys_ = 0;
};

}  // namespace winnow
