#include "eval/fit_length.h"

#include <algorithm>

namespace winnow {

std::int64_t largest_fitting(std::int64_t least, std::int64_t most,
                             const std::function<bool(std::int64_t)>& fits) {
  if (least > most || !fits(least)) return -1;
  std::int64_t good = least, bad = most + 1;
  for (std::int64_t step = std::max<std::int64_t>(1, least); good + step < bad; step *= 2) {
    if (!fits(good + step)) {
      bad = good + step;
      break;
    }
    good += step;
  }
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

}  // namespace winnow
