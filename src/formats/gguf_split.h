// Models split into several GGUF files: name-00001-of-00003.gguf and so on. The first has the metadata, each
// has split.no (from 0), split.count and split.tensors.count (of all parts), and its share of the tensors.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"

namespace winnow {

// All parts of the model that the file at `path`, any of them, belongs to, in order; the file alone when it
// is not split. Error(kIo) names a part that is missing; Error(kBadFormat) a part that contradicts its name
// or the others.
std::vector<GgufFile> open_gguf_parts(const std::string& path);

// The part that holds the metadata: `path` itself unless its name says that it is a later part.
std::string first_gguf_part(const std::string& path);

}  // namespace winnow
