#include "tokenizer/proto_reader.h"

#include <cstring>

#include "core/error.h"

namespace winnow {

void ProtoReader::fail_cut_short() const {
  fail(ErrorCode::kBadFormat, "{}: the message is cut short or damaged behind field {}", what_, number_);
}

std::uint64_t ProtoReader::read_varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(take(1)[0]);
    value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  fail(ErrorCode::kBadFormat, "{}: a number behind field {} has more than ten bytes", what_, number_);
}

std::string_view ProtoReader::take(std::uint64_t bytes) {
  if (bytes > rest_.size()) fail_cut_short();
  const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(bytes));
  rest_.remove_prefix(taken.size());
  return taken;
}

bool ProtoReader::next() {
  if (rest_.empty()) return false;
  const std::uint64_t key = read_varint();
  wire_ = key & 7;
  if (key >> 3 == 0 || key >> 3 >= std::uint64_t{1} << 29) {
    fail(ErrorCode::kBadFormat, "{}: {} is no number of a field", what_, key >> 3);
  }
  number_ = static_cast<std::uint32_t>(key >> 3);
  switch (wire_) {
    case kVarint: varint_ = read_varint(); break;
    case kFixed64: bytes_ = take(8); break;
    case kLength: bytes_ = take(read_varint()); break;
    case kFixed32: bytes_ = take(4); break;
    default: fail(ErrorCode::kBadFormat, "{}: field {} has the wire type {}", what_, number_, wire_);
  }
  return true;
}

void ProtoReader::expect(Wire wire, std::string_view name) const {
  if (wire_ == wire) return;
  fail(ErrorCode::kBadFormat, "{}: field {} has the wire type {}, it should be {} ({})", what_, number_,
       wire_, static_cast<std::uint32_t>(wire), name);
}

std::int64_t ProtoReader::integer() const {
  expect(kVarint, "a number");
  return static_cast<std::int64_t>(varint_);
}

float ProtoReader::float32() const {
  expect(kFixed32, "a float");
  float value = 0;
  std::memcpy(&value, bytes_.data(), sizeof(value));
  return value;
}

std::string_view ProtoReader::text() const {
  expect(kLength, "a string or message");
  return bytes_;
}

}  // namespace winnow
