#include "cli/profile_case.h"

#include <algorithm>
#include <chrono>

#include "cli/answer.h"
#include "cli/expected_memory.h"
#include "core/check.h"
#include "core/elapsed.h"

namespace winnow::cli {
namespace {

using nlohmann::json;

// Work per millisecond as 10^9 per second; null where no time was measured.
json giga_per_s(double work, double ms) { return ms > 0 ? json(work * 1e-6 / ms) : json(); }

json ratio(double numerator, double denominator) {
  return denominator > 0 ? json(numerator / denominator) : json();
}

}  // namespace

double median(std::vector<double> samples) {
  check(!samples.empty(), "median of nothing");
  std::sort(samples.begin(), samples.end());
  const std::size_t middle = samples.size() / 2;
  return samples.size() % 2 == 1 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
}

ProfileCase::ProfileCase(const Engine& engine, const Policy& policy, std::span<const TokenId> tokens,
                         std::int64_t new_tokens)
    : engine_(engine), policy_(policy), tokens_(tokens), new_tokens_(new_tokens) {
  if (engine.has_tokenizer()) {
    text_ = engine.tokenizer().decode({tokens.begin(), tokens.end()}, /*skip_control=*/true);
  }
}

double ProfileCase::tokenise_ms() const {
  if (!engine_.has_tokenizer()) return 0;
  const auto start = std::chrono::steady_clock::now();
  engine_.tokenizer().encode(text_, /*parse_special=*/false);
  return ms_since(start);
}

void ProfileCase::warm_up(const OnProgress& progress) {
  Session session(engine_);
  PrefillOptions options;
  options.reserve_tokens = new_tokens_;
  options.progress = progress;
  session.prefill(tokens_, policy_, options);
  warm_up_ms_ = session.prefill_stats().ms;
}

void ProfileCase::measure(const OnProgress& progress) {
  const double tokenising = tokenise_ms();
  Session session(engine_);
  PrefillOptions options;
  options.reserve_tokens = new_tokens_;
  options.progress = progress;
  session.prefill(tokens_, policy_, options);
  stages_ = session.stages();
  blocks_ = session.block_stats();
  kv_lens_ = session.kv_lens();
  kv_bytes_ = session.kv_bytes();
  Sampler sampler({});
  GenerateOptions generation;  // no stop tokens: every run decodes the same number
  generation.max_new_tokens = new_tokens_;
  const Generation generated = generate(session, sampler, generation);
  note(session, generated);
  prefill_samples_.push_back(prefill_.ms);
  ttft_samples_.push_back(tokenising + prefill_.ms + generated.first_token_ms);
  decode_samples_.push_back(generated.decode_ms);
  total_samples_.push_back(ttft_samples_.back() + generated.decode_ms);
}

void ProfileCase::note(const Session& session, const Generation& generation) {
  prefill_ = session.prefill_stats();
  decode_ = session.decode_stats();
  decode_steps_ = generation.decode_steps;
  const std::int64_t peak = engine_.backend().peak_bytes();
  peak_memory_bytes_ = peak >= 0 ? peak : winnow::peak_memory_bytes();
}

std::int64_t ProfileCase::estimated_memory_bytes() const {
  return engine_.estimate_here(length(), new_tokens_, policy_).total() +
         program_bytes(engine_.arch(), engine_.backend());
}

double ProfileCase::prefill_ms() const { return median(prefill_samples_); }
double ProfileCase::ttft_ms() const { return median(ttft_samples_); }
double ProfileCase::decode_ms() const { return median(decode_samples_); }
double ProfileCase::total_ms() const { return median(total_samples_); }

double ProfileCase::decode_tokens_per_s() const {
  return decode_ms() > 0 ? 1000.0 * static_cast<double>(decode_steps_) / decode_ms() : 0;
}

json ProfileCase::to_json(const ProfileCase* dense) const {
  json stages = json::array();
  for (const StageRecord& stage : stages_) stages.push_back(winnow::to_json(stage));
  return {{"policy", policy_.name},
          {"length", length()},
          {"new_tokens", new_tokens_},
          {"prefill_ms", prefill_ms()},
          {"ttft_ms", ttft_ms()},
          {"cold_ms", cold_ms_ ? json(*cold_ms_) : json()},
          {"decode_ms", decode_ms()},
          {"total_ms", total_ms()},
          {"decode_tokens_per_s", decode_tokens_per_s()},
          {"speedup_prefill", dense != nullptr ? ratio(dense->prefill_ms(), prefill_ms()) : json()},
          {"speedup_total", dense != nullptr ? ratio(dense->total_ms(), total_ms()) : json()},
          {"stages", stages},
          {"kv_lens", kv_lens_},
          {"kv_bytes", kv_bytes_},
          {"estimated_memory_bytes", estimated_memory_bytes()},
          {"peak_memory_bytes", peak_memory_bytes_},  // of the process so far: lengths ascend
          {"avgtok", avgtok()},
          {"density", density()},
          {"attn_work", prefill_.attn_work()},
          {"plan_ms", prefill_.plan_ms},
          {"attention_layers", layers_json(blocks_)},
          {"flops", prefill_.flops()},
          {"gflops_per_s", giga_per_s(prefill_.flops(), prefill_ms())},
          {"decode_gbytes_per_s", giga_per_s(decode_.weight_bytes + decode_.kv_bytes, decode_ms())},
          {"samples",
           {{"prefill_ms", prefill_samples_},
            {"ttft_ms", ttft_samples_},
            {"decode_ms", decode_samples_},
            {"total_ms", total_samples_}}}};
}

}  // namespace winnow::cli
