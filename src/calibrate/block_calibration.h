// Thresholds for each head: heads differ so much in how far they can be cut, and in what their errors do to
// the answer, that one threshold for all costs several times the KL (docs/quality.md).
//
// Measured: for every head, at every threshold of a grid, what is left (density) and how far the head's
// output is off (squared error per query); and for every layer what its errors do to the next-token
// distribution (KL per unit of error, from passes in which that layer alone is cut hard; or from gradients,
// CurveSettings::gradients). The loss of a choice of thresholds is then taken as the sum over the heads of
// sensitivity(layer) x error(head, threshold), and thresholds are chosen so that every head buys its last
// block at the same price (a Lagrangian).
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "runtime/engine.h"
#include "sparsity/policy.h"

namespace winnow {

struct BlockCurves {
  std::vector<float> grid;  // thresholds, from careful to bold
  std::int64_t layers = 0, heads = 0;
  std::vector<double> density, error;  // [layers][heads][grid]; density: of what the layer's queries see
  std::vector<double> sensitivity;     // [layers] KL per unit of error
  std::vector<double> pairs;  // [layers] pairs of dense attention there / mean over layers: windows see fewer

  std::size_t index(std::int64_t layer, std::int64_t head, std::size_t point) const {
    return static_cast<std::size_t>(layer * heads + head) * grid.size() + point;
  }
};
nlohmann::json to_json(const BlockCurves& curves);
BlockCurves block_curves_from_json(const nlohmann::json& json);

struct CurveSettings {
  AttentionPolicy attention;                  // its thresholds are not used
  std::vector<std::vector<TokenId>> windows;  // of texts, for densities and errors
  std::int64_t sensitivity_windows = 1;       // of these (0: layers count alike), and
  std::int64_t sensitivity_tokens = 2048;     // the first so many tokens of each

  // Empty, or what says more than passes with a layer cut: [tokens, q_dim] float32, the gradient by what the
  // heads of a layer give for each token, scaled so that (gradient . error)^2 / 2, summed over the tokens, is
  // the KL that the error costs: G / sqrt(n), G being the gradient of the summed loss of n tokens drawn from
  // the model's own predictions (its Fisher information to second order). Errors are then such KLs, and the
  // sensitivities 1.
  std::function<MatrixView(std::size_t window, std::int64_t layer)> gradients = {};
};

// Progress is told as a share, 0..1. False when cancelled; `curves` is not complete then.
bool measure_block_curves(const Engine& engine, const CurveSettings& settings,
                          const std::function<void(double)>& progress, const std::function<bool()>& cancelled,
                          BlockCurves& curves);

struct ThresholdChoice {
  std::vector<std::vector<float>> thresholds;  // [layers][heads], in [0, 1]: 0 computes everything
  double density = 0, loss = 0;                // as the curves predict them
};

// Thresholds that compute the share `density` of dense attention's pairs, as near as the grid allows, at the
// least predicted loss.
ThresholdChoice choose_thresholds(const BlockCurves& curves, double density);

}  // namespace winnow
