// What load_weights() will hold, told before it is called: for estimates of memory.
#pragma once

#include <cstdint>

#include "backends/backend.h"
#include "formats/weight_source.h"
#include "model/architecture.h"
#include "model/model_part.h"

namespace winnow {

struct LoadedBytes {
  std::int64_t packed = 0;        // matrices as the backend packs them for prefill
  std::int64_t decode_forms = 0;  // that it adds to the file's quantised matrices (WeightForms)
  std::int64_t rope = 0;          // cos and sin of every position
  std::int64_t total() const { return packed + decode_forms + rope; }
};

// Of the matrices that `part` takes of the model, an embedding table that `backend` keeps among them.
LoadedBytes loaded_bytes(const WeightSource& source, const Architecture& arch, const ModelPart& part,
                         const Backend& backend);

}  // namespace winnow
