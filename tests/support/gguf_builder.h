// GgufBuilder: GGUF files in memory, right or wrong on purpose.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace winnow {

class GgufBuilder {
 public:
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;  // of the tensors' data; the key general.alignment is the caller's
  // Set to lie about the counts.
  std::uint64_t extra_keys = 0;
  std::uint64_t extra_tensors = 0;

  GgufBuilder& key(std::string_view name, std::uint32_t type, std::string_view raw_value) {
    put_string(keys_, name);
    put(keys_, type);
    keys_ += raw_value;
    ++key_count_;
    return *this;
  }
  GgufBuilder& u32(std::string_view name, std::uint32_t value) { return key(name, 4, raw(value)); }
  GgufBuilder& f32(std::string_view name, float value) { return key(name, 6, raw(value)); }
  GgufBuilder& text(std::string_view name, std::string_view value) { return key(name, 8, raw_string(value)); }

  // `extents` as in the file, fastest first. The data starts at the next aligned offset.
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& extents, std::uint32_t type,
                      std::string_view data) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    tensor_at(name, extents, type, data_.size());
    data_ += data;
    return *this;
  }
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& extents,
                      std::span<const float> data) {
    return tensor(name, extents, 0,
                  {reinterpret_cast<const char*>(data.data()), data.size() * sizeof(float)});
  }
  // A directory entry alone.
  GgufBuilder& tensor_at(std::string_view name, const std::vector<std::uint64_t>& extents, std::uint32_t type,
                         std::uint64_t offset) {
    put_string(tensors_, name);
    put(tensors_, static_cast<std::uint32_t>(extents.size()));
    for (const std::uint64_t extent : extents) put(tensors_, extent);
    put(tensors_, type);
    put(tensors_, offset);
    ++tensor_count_;
    return *this;
  }

  std::string build() const {
    std::string file = "GGUF";
    put(file, version);
    put(file, tensor_count_ + extra_tensors);
    put(file, key_count_ + extra_keys);
    file += keys_ + tensors_;
    if (!data_.empty()) file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

  template <class T>
  static std::string raw(T value) {
    static_assert(std::is_arithmetic_v<T>);
    return {reinterpret_cast<const char*>(&value), sizeof value};
  }
  static std::string raw_string(std::string_view value) {
    return raw(static_cast<std::uint64_t>(value.size())) + std::string(value);
  }

 private:
  template <class T>
  static void put(std::string& to, T value) {
    to += raw(value);
  }
  static void put_string(std::string& to, std::string_view value) { to += raw_string(value); }

  std::string keys_;
  std::string tensors_;
  std::string data_;
  std::uint64_t key_count_ = 0;
  std::uint64_t tensor_count_ = 0;
};

}  // namespace winnow
