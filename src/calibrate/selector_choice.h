// Which selector and which blocks: of the candidates the one whose attention takes the least time on this
// machine for the same error of the heads' outputs.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "runtime/engine.h"
#include "sparsity/policy.h"

namespace winnow {

// Their thresholds are not meant to be used.
std::vector<AttentionPolicy> selector_candidates();

// On the tokens of one window. Progress is told as a share, 0..1. Nothing when cancelled.
std::optional<AttentionPolicy> choose_selector(const Engine& engine, std::span<const TokenId> tokens,
                                               const std::function<void(double)>& progress,
                                               const std::function<bool()>& cancelled);

}  // namespace winnow
