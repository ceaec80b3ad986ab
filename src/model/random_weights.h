// Random weights of a named shape, for measuring speed without a download. Deterministic in the seed; never
// called anything but random.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "formats/weight_source.h"

namespace winnow {

// `shape` as in "qwen2-0.5b"; Error(kBadArgument) lists the known ones.
std::unique_ptr<WeightSource> make_random_weights(const std::string& shape, std::uint64_t seed);

}  // namespace winnow
