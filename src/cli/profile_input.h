// The prompts that `profile` measures with.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace winnow::cli {

struct ProfileInput {
  std::vector<TokenId> tokens;  // a prompt of n tokens is the first n of these
  nlohmann::json description;   // {source, ...}: what the tokens are, for the result
};

// `count` tokens: of `text_file`, repeated as often as needed, or of the built-in text when it is empty;
// random ids for random weights, which have no tokenizer.
ProfileInput make_profile_input(const Engine& engine, const std::string& text_file, std::int64_t count,
                                std::uint64_t seed);

}  // namespace winnow::cli
