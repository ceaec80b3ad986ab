// ProfileCase: one policy at one length, measured several times.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/generate.h"
#include "runtime/session.h"

namespace winnow::cli {

class ProfileCase {
 public:
  ProfileCase(const Engine& engine, const Policy& policy, std::span<const TokenId> tokens,
              std::int64_t new_tokens);

  using OnProgress = std::function<void(double)>;  // share of one prefill

  void warm_up(const OnProgress& progress);  // a prefill that does not count
  void measure(const OnProgress& progress);  // one sample

  // The first prefill of the process; of the first case only.
  void set_cold() { cold_ms_ = warm_up_ms_; }

  const Policy& policy() const { return policy_; }
  std::int64_t length() const { return static_cast<std::int64_t>(tokens_.size()); }
  double prefill_ms() const;  // medians
  double ttft_ms() const;
  double decode_ms() const;
  double total_ms() const;
  std::int64_t kv_bytes() const { return kv_bytes_; }
  double avgtok() const { return prefill_.avgtok(); }
  double density() const { return prefill_.density(); }
  double decode_tokens_per_s() const;
  // What `inspect` would say of this process's part of the model, and the process's peak so far (or the
  // GPU's).
  std::int64_t estimated_memory_bytes() const;
  std::int64_t peak_memory_bytes() const { return peak_memory_bytes_; }

  // The result's fields; the speed-ups are against `dense`, or null without one.
  nlohmann::json to_json(const ProfileCase* dense) const;

 private:
  void note(const Session& session, const Generation& generation);
  double tokenise_ms() const;  // once more, of the same text; 0 without a tokenizer

  const Engine& engine_;
  const Policy& policy_;
  std::span<const TokenId> tokens_;
  std::int64_t new_tokens_;
  std::string text_;  // of tokens_

  std::vector<double> prefill_samples_, ttft_samples_, decode_samples_, total_samples_;
  std::optional<double> cold_ms_;
  double warm_up_ms_ = 0;
  std::vector<StageRecord> stages_;  // of the last sample, as all below
  std::vector<BlockRecord> blocks_;
  PassStats prefill_, decode_;
  std::int64_t decode_steps_ = 0;
  std::vector<std::int64_t> kv_lens_;
  std::int64_t kv_bytes_ = 0, peak_memory_bytes_ = 0;
};

double median(std::vector<double> samples);  // not empty

}  // namespace winnow::cli
