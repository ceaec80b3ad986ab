// The policies a request may name. Files are read when the server starts and go by the name they have in
// their folder; a request can never make the server open a file.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "sparsity/policy.h"

namespace winnow {

class PolicyBook {
 public:
  // `standard`: as on the command line; what requests that name nothing get, known as "default" as well.
  // Policies are for this model and such caches.
  PolicyBook(const ModelFacts& model, const std::string& standard, KvType kv = KvType::kSame);

  // Every policy file of `folder` that fits the model and its caches, by its name without ".json". Files for
  // others are passed over. Error(kIo, kBadFormat) for a folder or a file that cannot be read.
  void add_folder(const std::string& folder);
  void add(const std::string& name, const Policy& policy) { named_[name] = policy; }

  const Policy& standard() const { return standard_; }

  // "default", a known file's name, or a preset with an optional scorer and selector
  // ("keep08:recency+pooled"). ApiError(400) naming winnow.policy and what there is.
  Policy find(const std::string& text) const;

  // The policy with the largest measured speed-up among those with a measured KL of at most `max_kl`, of
  // those measured near the prompt's length (policy_warnings.h); where none was, dense, which costs nothing.
  // ApiError(400) naming winnow.max_kl and what was measured.
  Policy fastest_within(double max_kl, std::int64_t prompt_tokens) const;

  // [{"name", "kl", "speedup", ...}] of the named policies.
  nlohmann::json list() const;

 private:
  ModelFacts model_;
  KvType kv_;
  Policy standard_;
  std::map<std::string, Policy> named_;  // files
};

}  // namespace winnow
