// Which algorithms were found fastest, kept from run to run: $XDG_CACHE_HOME/winnow/cuda_algorithms.json, or
// under ~/.cache. A file that cannot be read counts as empty, one that cannot be written is left alone.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace winnow::cuda {

// Numbers of rows share a choice: up to the next sixteenth of a power of two, which this is. Choices are made
// for as many rows, up to kMostChoiceRows: what is fastest for fewer may need a second wave of tiles for
// more.
std::int64_t choice_rows(std::int64_t rows);
constexpr std::int64_t kMostChoiceRows = 4096;

std::map<std::string, std::vector<std::uint64_t>> read_choices();
void add_choice(const std::string& key, const std::vector<std::uint64_t>& words);

}  // namespace winnow::cuda
