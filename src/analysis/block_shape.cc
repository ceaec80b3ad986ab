#include "analysis/block_shape.h"

#include <charconv>

#include "core/error.h"
#include "runtime/prefill_plan.h"

namespace winnow {
namespace {

constexpr std::int64_t kMaxKeys = 1 << 20;

// A whole number from 1 on at the front of `text`, which is cut off it; 0 if there is none.
std::int64_t take_number(std::string_view& text) {
  std::int64_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 1) return 0;
  text.remove_prefix(static_cast<std::size_t>(stop - text.data()));
  return number;
}

}  // namespace

BlockShape parse_block_shape(const std::string& text) {
  std::string_view rest = text;
  BlockShape shape;
  shape.q = shape.k = take_number(rest);
  if (!rest.empty() && rest.front() == 'x') {
    rest.remove_prefix(1);
    shape.k = take_number(rest);
  }
  if (!rest.empty() || shape.q == 0 || shape.k == 0 || shape.k > kMaxKeys) {
    fail(ErrorCode::kBadArgument, "block \"{}\": must be QxK (queries x keys) or N for NxN, as 1x32 or 16",
         text);
  }
  if (shape.q > kChunkRows || kChunkRows % shape.q != 0) {
    fail(ErrorCode::kBadArgument,
         "block \"{}\": {} queries; must divide {}, the rows prefill works on at a time", text, shape.q,
         kChunkRows);
  }
  return shape;
}

std::string to_string(BlockShape shape) { return fmt::format("{}x{}", shape.q, shape.k); }

}  // namespace winnow
