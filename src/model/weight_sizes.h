// What load_weights() will hold, told before it is called: for estimates of memory.
#pragma once

#include <cstdint>

#include "backends/backend.h"
#include "formats/weight_source.h"
#include "model/architecture.h"

namespace winnow {

// Bytes of the model's matrices as `backend` packs them for prefill.
std::int64_t packed_bytes(const Architecture& arch, const Backend& backend);

// Bytes of the forms for decoding that `backend` adds to the file's quantised matrices (WeightForms).
std::int64_t decode_form_bytes(const WeightSource& source, const Architecture& arch, const Backend& backend);

// Bytes of cos and sin of every position.
std::int64_t rope_bytes(const Architecture& arch);

// All of it, of the part of the model that `part` gives the sizes of (part_of()). `decode_forms` are the
// whole model's; a part's share of them is taken to be its share of the elements.
std::int64_t loaded_bytes(std::int64_t decode_forms, const Architecture& arch, const Architecture& part,
                          const Backend& backend);

}  // namespace winnow
