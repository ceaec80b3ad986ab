// The peak of a whole process, expected before it runs: what `inspect` prints and `profile` sets beside what
// was measured.
#pragma once

#include <cstdint>

#include "runtime/prefill_plan.h"

namespace winnow::cli {

// What a process holds beside its engine: libraries, generated code, the tokenizer, pages of the model file
// that are read again. A GPU's memory holds none of it.
std::int64_t program_bytes(const Architecture& arch, const Backend& backend);

}  // namespace winnow::cli
