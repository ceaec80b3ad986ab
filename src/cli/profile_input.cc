#include "cli/profile_input.h"

#include <xxhash.h>

#include <random>

#include "cli/common.h"
#include "cli/provenance.h"
#include "cli/sample_text.h"
#include "core/error.h"

namespace winnow::cli {
namespace {

ProfileInput random_input(const Engine& engine, std::int64_t count, std::uint64_t seed) {
  ProfileInput input;
  input.description = {{"source", "random token ids"}, {"seed", seed}};
  std::mt19937_64 random(seed);
  const auto vocab = static_cast<std::uint64_t>(engine.arch().vocab);
  for (std::int64_t i = 0; i < count; ++i) input.tokens.push_back(static_cast<TokenId>(random() % vocab));
  return input;
}

// Tokens of text that `extend` makes longer until it suffices.
std::vector<TokenId> tokenise_until(const Tokenizer& tokenizer, std::int64_t count,
                                    const std::function<std::string(std::size_t)>& text_of) {
  std::vector<TokenId> tokens;
  // A token rarely stands for more than 4 bytes of prose; if it does, there is another round.
  for (auto bytes = static_cast<std::size_t>(count) * 5; static_cast<std::int64_t>(tokens.size()) < count;
       bytes *= 2) {
    tokens = tokenizer.encode(text_of(bytes), /*parse_special=*/false);
  }
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

}  // namespace

ProfileInput make_profile_input(const Engine& engine, const std::string& text_file, std::int64_t count,
                                std::uint64_t seed) {
  if (!engine.has_tokenizer()) {
    if (!text_file.empty())
      fail(ErrorCode::kBadArgument, "-f {}: random weights have no tokenizer to read it", text_file);
    return random_input(engine, count, seed);
  }
  if (text_file.empty()) {
    const auto text_of = [&](std::size_t bytes) { return sample_text(bytes, seed); };
    return {tokenise_until(engine.tokenizer(), count, text_of),
            {{"source", "built-in text, paragraphs in varying order"}, {"seed", seed}}};
  }
  const std::string text = read_text(text_file);
  if (text.empty()) fail(ErrorCode::kBadArgument, "{}: is empty", text_file);
  const auto text_of = [&](std::size_t bytes) {
    std::string repeated = text;
    while (repeated.size() < bytes) repeated += text;
    return repeated;
  };
  return {tokenise_until(engine.tokenizer(), count, text_of),
          {{"source", file_name(text_file)},
           {"bytes", text.size()},
           {"xxh64", hex_hash(XXH64(text.data(), text.size(), 0))}}};
}

}  // namespace winnow::cli
