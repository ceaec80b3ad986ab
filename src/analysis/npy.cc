#include "analysis/npy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>
#include <numeric>

#include "core/atomic_file.h"
#include "core/check.h"

namespace winnow {

std::string npy_header(const std::vector<std::int64_t>& shape) {
  std::string dictionary = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{}), }}",
                                       fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  constexpr std::size_t kPreamble = 10, kAlignment = 64;  // magic, version, length
  const std::size_t unpadded = kPreamble + dictionary.size() + 1;
  dictionary.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  dictionary += '\n';
  check(dictionary.size() < 65536, "npy: version 1.0 has 16 bits for the header's length");
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(dictionary.size() & 0xff);
  header += static_cast<char>(dictionary.size() >> 8);
  return header + dictionary;
}

void write_npy(const std::string& path, const std::vector<std::int64_t>& shape, std::span<const float> data) {
  const std::int64_t elements =
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  check(elements == static_cast<std::int64_t>(data.size()), "npy: as many elements as the shape says");
  std::string content = npy_header(shape);
  content.append(reinterpret_cast<const char*>(data.data()), data.size_bytes());
  write_file_atomically(path, content);
}

}  // namespace winnow
