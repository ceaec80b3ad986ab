// The text that `profile` reads when no file is named.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace winnow::cli {

// Paragraphs of plain English prose, written for this purpose and free of rights.
std::span<const std::string_view> sample_paragraphs();

// At least `min_bytes` of it: the paragraphs again and again, each round in another order (the same for the
// same seed), so that a long prompt is not one passage repeated word for word.
std::string sample_text(std::size_t min_bytes, std::uint64_t seed);

}  // namespace winnow::cli
