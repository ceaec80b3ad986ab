#include "core/byte_reader.h"

#include <limits>

#include "support/format_testing.h"

namespace winnow {
namespace {

TEST(ByteReader, ReadsLittleEndianValuesAtAnyAlignment) {
  const std::string bytes("\x01\x02\x03\x04\x05\x00\x00\x80\x3f", 9);
  ByteReader reader(bytes_of(bytes), "file");
  EXPECT_EQ(reader.read<std::uint8_t>("a"), 1);
  EXPECT_EQ(reader.read<std::uint16_t>("b"), 0x0302);
  EXPECT_EQ(reader.read<std::uint16_t>("c"), 0x0504);
  EXPECT_EQ(reader.read<float>("d"), 1.0f);
  EXPECT_EQ(reader.remaining(), 0u);
  EXPECT_EQ(reader.offset(), 9u);
}

TEST(ByteReader, NamesFileWhatAndOffsetWhenBytesAreMissing) {
  ByteReader reader(bytes_of("abcde"), "model.bin");
  reader.read_text(2, "prefix");
  expect_error(ErrorCode::kBadFormat, "model.bin: the count at byte 2 takes 4 bytes, but 3 are left",
               [&] { reader.read<std::uint32_t>("the count"); });
  EXPECT_EQ(reader.read_text(3, "rest"), "cde") << "a failed read must not move";
}

TEST(ByteReader, HugeLengthsDoNotOverflow) {
  ByteReader reader(bytes_of("abc"), "f");
  reader.read_text(1, "x");
  expect_error(ErrorCode::kBadFormat, "2 are left",
               [&] { reader.read_bytes(std::numeric_limits<std::uint64_t>::max(), "text"); });
}

TEST(ByteReader, EmptyInput) {
  ByteReader reader({}, "f");
  EXPECT_EQ(reader.read_text(0, "nothing"), "");
  expect_error(ErrorCode::kBadFormat, "0 are left", [&] { reader.read<std::uint8_t>("a byte"); });
}

TEST(Printable, HidesControlBytesAndShortens) {
  EXPECT_EQ(printable("a\x1b[31m\n"), "a?[31m?");
  EXPECT_EQ(printable("abcdef", 3), "abc...");
}

}  // namespace
}  // namespace winnow
