// A Hugging Face folder (config.json and safetensors) as a WeightSource.
#pragma once

#include <memory>
#include <string>

#include "formats/weight_source.h"

namespace winnow {

// GPT-2 gets one convention, whatever the checkpoint's age: names start with "transformer.", matrices are
// [out, in]. Gemma's norm weights get the 1 they are stored without.
std::unique_ptr<WeightSource> make_huggingface_source(const std::string& folder);

}  // namespace winnow
