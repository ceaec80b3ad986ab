#include "analysis/block_shape.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace winnow {
namespace {

TEST(BlockShape, BothSpellings) {
  EXPECT_EQ(parse_block_shape("16"), (BlockShape{16, 16}));
  EXPECT_EQ(parse_block_shape("1x32"), (BlockShape{1, 32}));
  EXPECT_EQ(parse_block_shape("64x16"), (BlockShape{64, 16}));
  EXPECT_EQ(parse_block_shape("512x5"), (BlockShape{512, 5}));
  EXPECT_EQ(to_string({64, 16}), "64x16");
}

TEST(BlockShape, AnythingElseIsNamed) {
  for (const char* text :
       {"", "x", "0", "16x", "x16", "16x0", "-4", "4x4x4", "a", "16 x16", "1e3", "1x9999999"}) {
    try {
      parse_block_shape(text);
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadArgument);
      EXPECT_NE(std::string(error.what()).find(std::string("\"") + text + "\""), std::string::npos);
    }
  }
  // Blocks that would span two chunks of the prefill.
  for (const char* text : {"3", "48x16", "1024x1", "99999999999999999999"})
    EXPECT_THROW(parse_block_shape(text), Error) << text;
}

}  // namespace
}  // namespace winnow
