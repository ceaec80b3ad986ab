// Which algorithms were found fastest, kept from run to run: $XDG_CACHE_HOME/winnow/cuda_algorithms.json, or
// under ~/.cache. A file that cannot be read counts as empty, one that cannot be written is left alone.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace winnow::cuda {

std::map<std::string, std::vector<std::uint64_t>> read_choices();
void add_choice(const std::string& key, const std::vector<std::uint64_t>& words);

}  // namespace winnow::cuda
