// Which algorithms were found fastest, kept from run to run: $XDG_CACHE_HOME/winnow/cuda_algorithms.json, or
// under ~/.cache. A file that cannot be read counts as empty, one that cannot be written is left alone.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace winnow::cuda {

// Numbers of rows share a choice: up to the next sixteenth of a power of two, which this is.
std::int64_t choice_rows(std::int64_t rows);
// The most of them that a choice is asked about: what is fastest for fewer may need a second wave of tiles
// for more. Of many rows, none but those at hand.
std::int64_t most_choice_rows(std::int64_t rows);

using StoredChoices = std::map<std::string, std::vector<std::uint64_t>>;
StoredChoices read_choices();
void add_choice(const std::string& key, const std::vector<std::uint64_t>& words);

}  // namespace winnow::cuda
