// The names that a policy's choices have in files and on the command line. For policy*.cc only.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "core/error.h"
#include "sparsity/policy.h"

namespace winnow {

template <class T>
struct NamedValue {
  std::string_view name;
  T value;
};

// "oracle" looks at the answer: it exists in experiments (winnow eval) only.
inline constexpr NamedValue<ScorerKind> kScorers[] = {
    {"attention", ScorerKind::kAttention}, {"recency", ScorerKind::kRecency}, {"random", ScorerKind::kRandom},
    {"norm", ScorerKind::kNorm},           {"learned", ScorerKind::kLearned}, {"oracle", ScorerKind::kOracle},
};

inline constexpr NamedValue<SelectorKind> kSelectors[] = {
    {"dense", SelectorKind::kDense},         {"exact_mass", SelectorKind::kExactMass},
    {"threshold", SelectorKind::kThreshold}, {"antidiagonal", SelectorKind::kAntidiagonal},
    {"pooled", SelectorKind::kPooled},       {"vertical_slash", SelectorKind::kVerticalSlash},
    {"local", SelectorKind::kLocal},
};

bool is_scorer_name(std::string_view name);

// Error(unknown) listing the names for anything that is no scorer. `where` begins the message.
ScorerKind scorer_from_name(std::string_view name, const std::string& where, ErrorCode unknown);

// nullptr when no value has the name.
template <class T>
const T* find_named(std::span<const NamedValue<T>> values, std::string_view name) {
  for (const NamedValue<T>& value : values) {
    if (value.name == name) return &value.value;
  }
  return nullptr;
}

// "a, b, c".
template <class T>
std::string names_of(std::span<const NamedValue<T>> values) {
  std::string result;
  for (const NamedValue<T>& value : values) {
    if (!result.empty()) result += ", ";
    result += value.name;
  }
  return result;
}

template <class T>
const char* name_of(std::span<const NamedValue<T>> values, T wanted) {
  for (const NamedValue<T>& value : values) {
    if (value.value == wanted) return value.name.data();  // names are literals
  }
  return "?";
}

}  // namespace winnow
