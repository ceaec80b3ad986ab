// Range: so many consecutive indices.
#pragma once

#include <cstdint>

namespace winnow {

struct Range {
  std::int64_t begin = 0, count = 0;

  std::int64_t end() const { return begin + count; }
  bool contains(std::int64_t index) const { return index >= begin && index < end(); }
  // The same of larger units: heads -> their dimensions.
  Range times(std::int64_t unit) const { return {begin * unit, count * unit}; }
  bool operator==(const Range&) const = default;
};

}  // namespace winnow
