// The largest prompt that fits: RULER's binary search over the size of a haystack.
#pragma once

#include <cstdint>
#include <functional>

namespace winnow {

// The largest n >= `least` with fits(n), given that fits(n) implies fits(n - 1); -1 when fits(least) is
// false. At most `most`.
std::int64_t largest_fitting(std::int64_t least, std::int64_t most,
                             const std::function<bool(std::int64_t)>& fits);

}  // namespace winnow
