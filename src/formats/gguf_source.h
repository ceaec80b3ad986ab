// A GGUF file as a WeightSource: its names and metadata translated to Hugging Face's.
#pragma once

#include <memory>

#include "formats/gguf.h"
#include "formats/weight_source.h"

namespace winnow {

// Error(kUnsupported) for an architecture, or a tensor of a known one, that winnow cannot run;
// Error(kBadFormat) for missing or ill-typed metadata. If the file was read from bytes, they must outlive the
// source.
std::unique_ptr<WeightSource> make_gguf_source(GgufFile file);

}  // namespace winnow
