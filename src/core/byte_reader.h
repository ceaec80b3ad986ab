// ByteReader: a cursor over the bytes of an untrusted little-endian file.
//
// Every read is checked against the bytes left before anything is touched, and a failure is an Error that
// names the file, what was being read and the byte offset. Views it hands out point into the bytes and never
// own them.
#pragma once

#include <fmt/format.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/error.h"

namespace winnow {

static_assert(std::endian::native == std::endian::little,
              "the file readers copy little-endian values as they are");

// A name out of a file, fit for a message: control bytes become '?', and no more than `max_bytes` are shown.
inline std::string printable(std::string_view text, std::size_t max_bytes = 96) {
  std::string result(text.substr(0, max_bytes));
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > max_bytes) result += "...";
  return result;
}

class ByteReader {
 public:
  // `file` names the bytes in messages. Both must outlive the reader.
  ByteReader(std::span<const std::byte> bytes, std::string_view file) : bytes_(bytes), file_(file) {}

  std::size_t offset() const { return offset_; }
  std::size_t remaining() const { return bytes_.size() - offset_; }

  // One value of a fixed-size type; `what` says what it is, for the message.
  template <class T>
  T read(std::string_view what) {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, read_bytes(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::span<const std::byte> read_bytes(std::uint64_t count, std::string_view what) {
    if (count > remaining()) {
      fail(ErrorCode::kBadFormat,
           "{}: {} at byte {} takes {} bytes, but {} are left: the file is cut short or damaged", file_, what,
           offset_, count, remaining());
    }
    const auto result = bytes_.subspan(offset_, static_cast<std::size_t>(count));
    offset_ += result.size();
    return result;
  }

  std::string_view read_text(std::uint64_t count, std::string_view what) {
    const auto text = read_bytes(count, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view file_;
  std::size_t offset_ = 0;
};

}  // namespace winnow
