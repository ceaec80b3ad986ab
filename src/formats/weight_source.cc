#include "formats/weight_source.h"

#include <filesystem>

#include "core/error.h"
#include "formats/gguf_source.h"
#include "formats/gguf_split.h"
#include "formats/huggingface_source.h"

namespace winnow {

std::unique_ptr<WeightSource> open_weights(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return make_huggingface_source(path);
  if (path.ends_with(".safetensors")) {
    fail(ErrorCode::kBadArgument, "{}: name the folder that holds this file and its config.json", path);
  }
  return make_gguf_source(open_gguf_parts(path));
}

}  // namespace winnow
