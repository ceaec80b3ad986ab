// Of scores, the highest: one that is not a number must not hide behind another.
#pragma once

#include <cmath>

namespace winnow {

// The higher of the two; NaN where one is.
template <class Number>
Number higher(Number a, Number b) {
  return std::isnan(a) || b <= a ? a : b;
}

}  // namespace winnow
