// check(): aborts on a programming error, in every build type. Never used on data from outside: that is an
// Error.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace winnow {

// The defaulted arguments stand for std::source_location, which clang 14 does not have.
inline void check(bool condition, const char* what, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  if (condition) [[likely]]
    return;
  std::fprintf(stderr, "winnow: internal error at %s:%d: %s\n", file, line, what);
  std::abort();
}

}  // namespace winnow
