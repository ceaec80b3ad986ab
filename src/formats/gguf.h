// GgufFile: metadata and tensor directory of a GGUF file, version 2 or 3, little-endian.
//
// Layout: "GGUF", u32 version, u64 tensor count, u64 key count; keys {string key, u32 type, value}; tensors
// {string name, u32 dimensions, u64 extents (fastest first), u32 type, u64 offset}; padding to
// general.alignment (32); data. A string is {u64 bytes, UTF-8}; an array {u32 element type, u64 count,
// elements}.
//
// The file is not trusted: every count, length and offset is checked against the file before it is used, and
// what is wrong is an Error naming the file and the key or tensor. Nothing here knows about models;
// gguf_source.cc does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/mapped_file.h"

namespace winnow {

// Types of metadata values, numbered as in the file.
enum class GgufType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// One metadata value, still encoded: the getters of GgufFile decode it. Its bounds are checked.
struct GgufValue {
  GgufType type;                    // kArray, or the type of the single value
  GgufType element_type;            // of an array; otherwise the same as `type`
  std::int64_t count;               // elements of an array; otherwise 1
  std::span<const std::byte> data;  // the elements, one after the other
};

struct GgufTensor {
  std::string_view name;
  DType dtype;
  std::vector<std::int64_t>
      shape;  // slowest first (reverse of the file): [rows, cols]; every extent is positive
  std::span<const std::byte> data;  // shape's product of elements, row after row
};

class GgufFile {
 public:
  // Maps the file and reads its directory. Throws Error.
  explicit GgufFile(const std::string& path);
  // Reads `bytes`, which must outlive the object; `name` stands for the file in messages.
  GgufFile(std::span<const std::byte> bytes, std::string name);

  const std::string& path() const { return path_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find_tensor(std::string_view name) const;  // nullptr when there is none
  const std::map<std::string_view, GgufValue>& metadata() const { return metadata_; }
  bool has(std::string_view key) const { return metadata_.contains(key); }

  // find_x: nothing when the key is missing. x: Error(kBadFormat) naming the key then. Both throw when the
  // value has another type. Integers of every width convert to int64_t (Error when too large), numbers also
  // accept integers. Views point into the file.
  std::optional<std::int64_t> find_integer(std::string_view key) const;
  std::optional<double> find_number(std::string_view key) const;
  std::optional<bool> find_boolean(std::string_view key) const;
  std::optional<std::string_view> find_string(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> find_integers(std::string_view key) const;
  std::optional<std::vector<double>> find_numbers(std::string_view key) const;
  std::optional<std::vector<std::string_view>> find_strings(std::string_view key) const;
  std::int64_t integer(std::string_view key) const { return required(key, find_integer(key)); }
  double number(std::string_view key) const { return required(key, find_number(key)); }
  bool boolean(std::string_view key) const { return required(key, find_boolean(key)); }
  std::string_view string(std::string_view key) const { return required(key, find_string(key)); }
  std::vector<std::int64_t> integers(std::string_view key) const { return required(key, find_integers(key)); }
  std::vector<double> numbers(std::string_view key) const { return required(key, find_numbers(key)); }
  std::vector<std::string_view> strings(std::string_view key) const {
    return required(key, find_strings(key));
  }

  void drop_pages() const {
    if (file_) file_->drop_pages();
  }

 private:
  void read_directory(std::span<const std::byte> bytes);
  const GgufValue* find(std::string_view key) const;
  [[noreturn]] void fail_missing(std::string_view key) const;
  [[noreturn]] void fail_type(std::string_view key, const GgufValue& value, std::string_view expected) const;

  template <class T>
  T required(std::string_view key, std::optional<T> value) const {
    if (!value) fail_missing(key);
    return *std::move(value);
  }

  std::string path_;
  std::optional<MappedFile> file_;  // none when the bytes are the caller's
  std::map<std::string_view, GgufValue> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string_view, std::size_t> tensor_index_;
};

}  // namespace winnow
