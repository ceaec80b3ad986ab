// A text's lines, one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace winnow::cli {

// Calls fn(line, number, ended) for each line, without its newline; `ended`: it has one.
template <class Fn>
void for_each_line(const std::string& text, Fn&& fn) {
  std::int64_t number = 1;
  for (std::size_t begin = 0; begin < text.size(); ++number) {
    const std::size_t newline = text.find('\n', begin);
    const bool ended = newline != std::string::npos;
    const std::size_t end = ended ? newline : text.size();
    fn(text.substr(begin, end - begin), number, ended);
    begin = end + 1;
  }
}

}  // namespace winnow::cli
