#include "eval/ablation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {
namespace {

class Variants {
 public:
  explicit Variants(const EvalPolicy& original) : original_(original) {}

  TokenPolicy& add(const std::string& suffix) {
    EvalPolicy variant = original_;
    variant.name += "~" + suffix;
    variant.policy.name = variant.name;
    variant.policy.measured = nullptr;  // what was measured is the original's
    list_.push_back(std::move(variant));
    return list_.back().policy.tokens;
  }
  std::vector<EvalPolicy> take() { return std::move(list_); }

 private:
  const EvalPolicy& original_;
  std::vector<EvalPolicy> list_;
};

void ablate_stages(const TokenPolicy& tokens, Variants& variants) {
  for (std::size_t i = 0; i < tokens.stages.size(); ++i) {
    auto& stages = variants.add(fmt::format("no{}", tokens.stages[i].layer)).stages;
    stages.erase(stages.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void ablate_positions(Variants& variants) {
  variants.add("original").positions = PositionMode::kOriginal;
  variants.add("compact").positions = PositionMode::kCompact;
}

void ablate_protection(const TokenPolicy& tokens, Variants& variants) {
  for (const double factor : {0.0, 0.5, 1.0, 2.0}) {
    TokenPolicy& variant = variants.add(fmt::format("tail{}", factor));
    variant.protect_tail_share = std::min(1.0, tokens.protect_tail_share * factor);
    variant.protect_tail_min =
        std::max<std::int64_t>(1, std::llround(static_cast<double>(tokens.protect_tail_min) * factor));
  }
}

void ablate_window(Variants& variants) {
  for (const std::int64_t window : {16, 32, 64, 128, 256}) {
    variants.add(fmt::format("window{}", window)).window = window;
  }
}

}  // namespace

std::vector<std::string> ablation_names() { return {"stages", "positions", "protection", "window"}; }

std::vector<EvalPolicy> ablate(const EvalPolicy& policy, const std::string& name) {
  const std::vector<std::string> names = ablation_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    fail(ErrorCode::kBadArgument, "--ablate {}: must be one of {}", printable(name), fmt::join(names, ", "));
  }
  const TokenPolicy& tokens = policy.policy.tokens;
  if (!policy.policy.prunes()) {
    fail(ErrorCode::kBadArgument, "--ablate {}: the policy {} has no stages to vary", name, policy.name);
  }
  Variants variants(policy);
  if (name == "stages") ablate_stages(tokens, variants);
  if (name == "positions") ablate_positions(variants);
  if (name == "protection") ablate_protection(tokens, variants);
  if (name == "window") {
    if (tokens.scorer != ScorerKind::kAttention) {
      fail(ErrorCode::kBadArgument, "--ablate window: the scorer of {} is {}; only attention has a window",
           policy.name, scorer_name(tokens.scorer));
    }
    ablate_window(variants);
  }
  return variants.take();
}

}  // namespace winnow
