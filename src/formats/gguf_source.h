// A GGUF file, or the parts of a split one, as a WeightSource: its names and metadata translated to Hugging
// Face's.
#pragma once

#include <memory>
#include <vector>

#include "formats/gguf.h"
#include "formats/weight_source.h"

namespace winnow {

// Error(kUnsupported) for an architecture, or a tensor of a known one, that winnow cannot run;
// Error(kBadFormat) for missing or ill-typed metadata. If the file was read from bytes, they must outlive the
// source.
std::unique_ptr<WeightSource> make_gguf_source(GgufFile file);
// The parts as gguf_split.h opens them; the first has the metadata.
std::unique_ptr<WeightSource> make_gguf_source(std::vector<GgufFile> parts);

}  // namespace winnow
