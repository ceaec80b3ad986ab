// The texts that eval and calibrate measure on.
#pragma once

#include <string>
#include <vector>

#include "eval/eval_text.h"

namespace winnow::cli {

// The files ("-" is stdin), or without any the texts that come with winnow. Error(kIo) names what cannot be
// read, Error(kBadArgument) what is empty.
std::vector<EvalText> read_measuring_texts(const std::vector<std::string>& files);

}  // namespace winnow::cli
