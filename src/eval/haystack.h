// Haystacks: what needles are hidden in, after RULER (arXiv 2404.06654; github.com/NVIDIA/RULER, niah.py).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace winnow {

inline constexpr std::string_view kNoiseSentences =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

// `needles[i]` goes before sentence floor(sentences x depths[i] / 100); depths ascend. Joined by spaces.
std::string hide_in_sentences(const std::vector<std::string>& sentences,
                              const std::vector<std::string>& needles, const std::vector<double>& depths);

// `needles[i]` goes before line floor(lines x shares[i]) of `lines`; shares ascend in [0, 1). Joined by
// newlines.
std::string hide_in_lines(const std::vector<std::string>& lines, const std::vector<std::string>& needles,
                          const std::vector<double>& shares);

}  // namespace winnow
