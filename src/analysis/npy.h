// NumPy's file format, version 1.0: float32 arrays, little-endian, C order.
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace winnow {

// Everything before the data; a multiple of 64 bytes.
std::string npy_header(const std::vector<std::int64_t>& shape);

// Writes header and data atomically; Error(kIo).
void write_npy(const std::string& path, const std::vector<std::int64_t>& shape, std::span<const float> data);

}  // namespace winnow
