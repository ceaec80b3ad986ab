// ProtoReader: the fields of one protobuf message, one after the other, from bytes that are not trusted.
//
// Wire format: each field is a varint (number << 3 | wire type), then a varint (type 0), 8 bytes (1), a
// varint length and as many bytes (2), or 4 bytes (5). Groups (3, 4) are of the past and refused.
// https://protobuf.dev/programming-guides/encoding/
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace winnow {

class ProtoReader {
 public:
  // `what` names the message in errors, with its file; `bytes` must outlive the reader.
  ProtoReader(std::string_view bytes, std::string what) : rest_(bytes), what_(std::move(what)) {}

  // Goes to the next field; false at the end. Throws Error(kBadFormat) for what is cut short or no field.
  bool next();
  std::uint32_t number() const { return number_; }

  // The value of this field. Throws Error(kBadFormat) when it has another wire type.
  std::int64_t integer() const;
  bool boolean() const { return integer() != 0; }
  float float32() const;
  std::string_view text() const;  // strings, bytes and messages

 private:
  enum Wire : std::uint32_t { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };

  std::uint64_t read_varint();
  std::string_view take(std::uint64_t bytes);
  void expect(Wire wire, std::string_view name) const;
  [[noreturn]] void fail_cut_short() const;

  std::string_view rest_;
  std::string what_;
  std::uint32_t number_ = 0, wire_ = 0;
  std::uint64_t varint_ = 0;
  std::string_view bytes_;
};

}  // namespace winnow
