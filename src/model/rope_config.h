// How a config scales its rotary embeddings: rope_scaling as transformers reads it.
#pragma once

#include "model/config_reader.h"
#include "model/rope.h"

namespace winnow {

// Nothing is scaled when config[rope_scaling] is missing. Error(kUnsupported) for a rope_type or a key in it
// that winnow does not know; Error(kBadFormat) for values that make no sense.
RopeScaling read_rope_scaling(const ConfigReader& config, std::int64_t rotary_dim);

}  // namespace winnow
