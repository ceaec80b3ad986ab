// BlockShape: how the attention matrix of one head is cut into blocks of q queries x k keys. The last block
// in either direction may be short; it counts as one.
#pragma once

#include <cstdint>
#include <string>

namespace winnow {

struct BlockShape {
  std::int64_t q = 1, k = 1;
  bool operator==(const BlockShape&) const = default;
};

// "1x32": 1 query x 32 keys; "16": 16 x 16. A block never spans two chunks of the prefill, so q divides
// kChunkRows (512). Error(kBadArgument) names the text and what is possible.
BlockShape parse_block_shape(const std::string& text);
std::string to_string(BlockShape shape);  // "16x16"

}  // namespace winnow
