#pragma once

#include <cstdint>

namespace winnow::cpu {

// Whether all of s[0..count) are numbers below infinity, and one of them is finite: of others a softmax says
// nothing.
bool has_softmax(const float* s, std::int64_t count);
// scores[i] += weight * softmax(s * scale)[i] for i < count. Overwrites s, which is readable up to the next
// multiple of 16. A NaN in s counts as minus infinity.
void add_softmax(float* s, std::int64_t count, float scale, float weight, float* scores);
// scores[i] = max(scores[i], softmax(s * scale)[i]) for i < count; the same otherwise.
void max_softmax(float* s, std::int64_t count, float scale, float* scores);

}  // namespace winnow::cpu
