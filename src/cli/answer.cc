#include "cli/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "cli/common.h"
#include "core/elapsed.h"
#include "runtime/answer_text.h"

namespace winnow::cli {
namespace {

bool read_prompt(Session& session, const TokenisedPrompt& prompt, const AnswerOptions& options,
                 Answer& answer) {
  Progress progress("reading the prompt", options.progress);
  PrefillOptions prefill;
  const std::int64_t left = session.room() - static_cast<std::int64_t>(prompt.tokens.size());
  prefill.reserve_tokens = std::clamp<std::int64_t>(left, 0, options.max_new_tokens);
  prefill.progress = [&](double share) { progress.update(share); };
  prefill.cancelled = options.cancelled;
  if (options.positions) {
    prefill.on_stage = [&](const StageRecord&, std::span<const std::int32_t> places) {
      answer.kept.emplace_back(places.begin(), places.end());
    };
  }
  return session.prefill(prompt.tokens, options.policy, prefill);
}

void note_prefill(Answer& answer, const Session& session) {
  answer.stages = session.stages();
  answer.blocks = session.block_stats();
  answer.prefill = session.prefill_stats();
  answer.first_logits.assign(session.logits().begin(), session.logits().end());
  answer.kv_lens = session.kv_lens();
  answer.kv_bytes = session.kv_bytes();
}

}  // namespace

TokenisedPrompt tokenise(const std::function<std::vector<TokenId>()>& encode) {
  const auto start = std::chrono::steady_clock::now();
  TokenisedPrompt prompt{encode(), 0};
  prompt.ms = ms_since(start);
  return prompt;
}

Answer answer_prompt(Session& session, Sampler& sampler, const TokenisedPrompt& prompt,
                     const AnswerOptions& options) {
  Answer answer;
  answer.prompt_tokens = static_cast<std::int64_t>(prompt.tokens.size());
  answer.tokenise_ms = prompt.ms;
  answer.prefilled = read_prompt(session, prompt, options, answer);
  if (!answer.prefilled) {
    answer.generation.reason = FinishReason::kCancelled;
    return answer;
  }
  note_prefill(answer, session);
  AnswerText text(options.tokenizer, options.begins_text, options.stop_strings);
  const auto emit = [&](const std::string& part) {
    if (options.on_text && !part.empty()) options.on_text(part);
  };
  GenerateOptions generation;
  generation.stop_tokens = options.tokenizer.stop_tokens();
  generation.max_new_tokens = options.max_new_tokens;
  generation.cancelled = options.cancelled;
  generation.on_token = [&](TokenId token) {
    emit(text.push(token));
    return !text.stopped();
  };
  answer.generation = generate(session, sampler, generation);
  emit(text.finish());
  answer.text = text.text();
  answer.decode = session.decode_stats();
  return answer;
}

nlohmann::json to_json(const Answer& answer, const Policy& policy) {
  nlohmann::json stages = nlohmann::json::array();
  for (std::size_t i = 0; i < answer.stages.size(); ++i) {
    stages.push_back(winnow::to_json(answer.stages[i]));
    if (i < answer.kept.size()) stages.back()["kept_positions"] = answer.kept[i];
  }
  const Generation& generation = answer.generation;
  return {{"policy", policy.name},
          {"text", answer.text},
          {"tokens", generation.tokens},
          {"finish_reason", finish_reason_name(generation.reason)},
          {"prompt_tokens", answer.prompt_tokens},
          {"kept_tokens", answer.kept_tokens()},
          {"new_tokens", generation.tokens.size()},
          {"tokenise_ms", answer.tokenise_ms},
          {"prefill_ms", answer.prefill.ms},
          {"ttft_ms", answer.ttft_ms()},
          {"decode_ms", generation.decode_ms},
          {"decode_tokens_per_s", generation.decode_tokens_per_s()},
          {"avgtok", answer.prefill.avgtok()},
          {"density", answer.prefill.density()},
          {"attn_work", answer.prefill.attn_work()},
          {"plan_ms", answer.prefill.plan_ms},
          {"flops", answer.prefill.flops()},
          {"kv_lens", answer.kv_lens},
          {"kv_bytes", answer.kv_bytes},
          {"stages", stages}};
}

nlohmann::json layers_json(const std::vector<BlockRecord>& blocks) {
  nlohmann::json layers = nlohmann::json::array();
  for (const BlockRecord& record : blocks) layers.push_back(winnow::to_json(record));
  return layers;
}

std::string summary(const Answer& answer) {
  if (!answer.prefilled)
    return fmt::format("{} prompt tokens; cancelled before they were read", answer.prompt_tokens);
  const Generation& generation = answer.generation;
  return fmt::format(
      "{} prompt tokens, {} kept{}; first token after {:.0f} ms; {} tokens{}; KV cache {:.1f} MB{}",
      answer.prompt_tokens, answer.kept_tokens(),
      answer.blocks.empty() ? "" : fmt::format("; attention density {:.3f}", answer.prefill.density()),
      answer.ttft_ms(), generation.tokens.size(),
      generation.decode_steps > 0 ? fmt::format(" at {:.1f}/s", generation.decode_tokens_per_s()) : "",
      megabytes(answer.kv_bytes), generation.reason == FinishReason::kCancelled ? "; cancelled" : "");
}

}  // namespace winnow::cli
