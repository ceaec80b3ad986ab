#include "eval/sample.h"

#include "core/error.h"

namespace winnow {

nlohmann::json to_json(const Sample& sample) {
  nlohmann::json json = {{"values", sample.values},
                         {"prompt_tokens", sample.prompt_tokens},
                         {"prefill_ms", sample.prefill.ms},
                         {"avgtok", sample.prefill.avgtok},
                         {"density", sample.prefill.density},
                         {"attn_work", sample.prefill.attn_work},
                         {"kv_share", sample.prefill.kv_share},
                         {"ttft_ms", sample.ttft_ms ? nlohmann::json(*sample.ttft_ms) : nlohmann::json()},
                         {"gated", sample.prefill.gated},
                         {"timed_on", sample.timed_on},
                         {"cold", sample.cold}};
  if (!sample.answer.empty()) json["answer"] = sample.answer;
  return json;
}

Sample sample_from_json(const nlohmann::json& json, const std::string& origin) {
  try {
    Sample sample;
    json.at("values").get_to(sample.values);
    json.at("prompt_tokens").get_to(sample.prompt_tokens);
    json.at("prefill_ms").get_to(sample.prefill.ms);
    json.at("avgtok").get_to(sample.prefill.avgtok);
    json.at("density").get_to(sample.prefill.density);
    json.at("attn_work").get_to(sample.prefill.attn_work);
    json.at("kv_share").get_to(sample.prefill.kv_share);
    if (!json.at("ttft_ms").is_null()) sample.ttft_ms = json["ttft_ms"].get<double>();
    sample.prefill.gated = json.value("gated", 0.0);
    sample.timed_on = json.value("timed_on", "");
    json.at("cold").get_to(sample.cold);
    sample.answer = json.value("answer", "");
    return sample;
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::kBadFormat, "{}: is not a sample of winnow eval: {}", origin, error.what());
  }
}

}  // namespace winnow
