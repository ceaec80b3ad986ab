// Sessions and answers.
#include <optional>
#include <span>

#include "capi/handles.h"
#include "runtime/answer_text.h"
#include "runtime/generate.h"

namespace winnow::capi {
namespace {

// winnow_answer as its first version had it, which gives memory to the caller: a shorter one would lose it.
constexpr std::size_t kFirstAnswerBytes = offsetof(winnow_answer, decode_ms) + sizeof(double);

void check_tokens(std::span<const TokenId> tokens, std::int64_t vocab) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < vocab) continue;
    fail(ErrorCode::kBadArgument, "token {} is {}: the vocabulary has 0..{}", i, tokens[i], vocab - 1);
  }
}

// Room for tokens after a prompt of `prompt`: what the caller says, else as usual, as far as the context has
// it.
std::int64_t reserved_tokens(const winnow_prefill_options& given, const Session& session,
                             std::size_t prompt) {
  if (given.reserve_tokens < 0) fail(ErrorCode::kBadArgument, "reserve_tokens is {}", given.reserve_tokens);
  const std::int64_t wanted =
      given.reserve_tokens > 0 ? given.reserve_tokens : PrefillOptions().reserve_tokens;
  return std::clamp<std::int64_t>(session.room() - static_cast<std::int64_t>(prompt), 0, wanted);
}

void prefill(winnow_session& session, std::span<const TokenId> tokens, const Policy& policy,
             const winnow_prefill_options& given) {
  check_tokens(tokens, (*session.shared)->arch().vocab);
  std::vector<winnow_session::Stage> stages;
  bool stop = false;
  PrefillOptions options;
  options.reserve_tokens = reserved_tokens(given, session.session, tokens.size());
  options.on_stage = [&](const StageRecord& record, std::span<const std::int32_t> places) {
    stages.push_back({record, {places.begin(), places.end()}});
  };
  if (given.progress != nullptr) {
    options.progress = [&](double share) { stop = given.progress(share, given.user_data) != 0 || stop; };
    options.cancelled = [&] { return stop; };
  }
  if (!session.session.prefill(tokens, policy, options)) throw Cancelled();
  session.stages = std::move(stages);
}

// The answer's text as it comes, for models that have one.
class AnswerStream {
 public:
  AnswerStream(const Engine& engine, const winnow_generate_options& options) : options_(options) {
    std::vector<std::string> stop;
    for (std::size_t i = 0; i < options.stop_count; ++i) {
      stop.emplace_back(&required((&required(options.stop, "stop"))[i], "a stop text"));
    }
    if (engine.has_tokenizer())
      text_.emplace(engine.tokenizer(), options.new_text != 0, std::move(stop));
    else if (!stop.empty())
      fail(ErrorCode::kBadArgument, "stop: random weights have no tokenizer");
  }

  bool push(TokenId token) {
    tell(token, text_ ? text_->push(token) : "");
    return !stopped_by_caller_ && !(text_ && text_->stopped());
  }
  void finish(std::span<const TokenId> tokens) {
    if (!text_ || stopped_by_caller_) return;
    const std::string rest = text_->finish();
    if (!rest.empty()) tell(tokens.back(), rest);
  }
  bool stopped_by_caller() const { return stopped_by_caller_; }
  const std::string* text() const { return text_ ? &text_->text() : nullptr; }

 private:
  void tell(TokenId token, const std::string& part) {
    if (options_.on_token == nullptr) return;
    stopped_by_caller_ = options_.on_token(token, part.data(), part.size(), options_.user_data) != 0;
  }

  const winnow_generate_options& options_;
  std::optional<AnswerText> text_;
  bool stopped_by_caller_ = false;
};

GenerateOptions generate_options(const winnow_generate_options& given, const Engine& engine,
                                 AnswerStream& stream) {
  GenerateOptions options;
  if (given.max_new_tokens < 0) fail(ErrorCode::kBadArgument, "max_new_tokens is {}", given.max_new_tokens);
  if (given.max_new_tokens > 0) options.max_new_tokens = given.max_new_tokens;
  if (engine.has_tokenizer()) options.stop_tokens = engine.tokenizer().stop_tokens();
  options.on_token = [&stream](TokenId token) { return stream.push(token); };
  return options;
}

winnow_answer generate_answer(winnow_session& session, const winnow_generate_options& given) {
  const Engine& engine = **session.shared;
  if (session.session.tokens() == 0)
    fail(ErrorCode::kBadArgument, "the session has read nothing to go on with");
  AnswerStream stream(engine, given);
  Sampler sampler({given.temperature, given.top_k, given.top_p == 0 ? 1.0 : given.top_p, given.seed});
  const Generation generation = generate(session.session, sampler, generate_options(given, engine, stream));
  if (!generation.tokens.empty()) stream.finish(generation.tokens);
  if (generation.last_token_pending && session.session.room() > 0)
    session.session.decode(generation.tokens.back());
  winnow_answer answer{};
  answer.count = generation.tokens.size();
  answer.decode_ms = generation.decode_ms;
  answer.finish = stream.stopped_by_caller()                 ? WINNOW_FINISH_CALLBACK
                  : generation.reason == FinishReason::kStop ? WINNOW_FINISH_STOP
                                                             : WINNOW_FINISH_LENGTH;
  answer.tokens = caller_owned(generation.tokens.data(), generation.tokens.size());
  if (const std::string* text = stream.text()) {
    answer.text = caller_owned(*text);
    answer.text_bytes = text->size();
  }
  return answer;
}

winnow_stage stage_of(const winnow_session& session, std::size_t index) {
  if (index >= session.stages.size()) {
    fail(ErrorCode::kBadArgument, "stage {}: the last prefill had {}", index, session.stages.size());
  }
  const auto& [record, kept] = session.stages[index];
  winnow_stage stage{};
  stage.layer = record.layer;
  stage.tokens_before = record.input_seq_len;
  stage.tokens_kept = record.tokens_kept;
  stage.ms = record.scoring_ms;
  stage.kept = kept.data();
  return stage;
}

winnow_stats stats_of(const winnow_session& handle) {
  const Session& session = handle.session;
  const PassStats& prefill = session.prefill_stats();
  winnow_stats stats{};
  stats.tokens = session.tokens();
  stats.room = session.room();
  stats.prompt_tokens = prefill.prompt_tokens;
  stats.kept_tokens = handle.stages.empty() ? prefill.prompt_tokens : handle.stages.back().record.tokens_kept;
  stats.prefill_ms = prefill.ms;
  stats.decode_ms = session.decode_stats().ms;
  stats.avgtok = prefill.avgtok();
  stats.density = prefill.density();
  stats.attention_work = prefill.attn_work();
  stats.flops = prefill.flops();
  stats.kv_bytes = session.kv_bytes();
  stats.memory_bytes = session.memory_bytes();
  return stats;
}

}  // namespace
}  // namespace winnow::capi

using namespace winnow::capi;

winnow_status winnow_session_open(winnow_engine* engine, winnow_session** session) {
  return guarded([&] {
    const std::shared_ptr<SharedEngine>& shared = required(engine, "engine").shared;
    required(session, "session");
    const Turn turn(shared->gate());
    *session = new winnow_session{shared, winnow::Session(**shared), {}};
  });
}

void winnow_session_close(winnow_session* session) {
  if (session == nullptr) return;
  const std::shared_ptr<Gate> gate = session->shared->gate();  // the session may be the engine's last
  free_in_turn(gate, [&] { delete session; });
}

winnow_status winnow_session_prefill(winnow_session* session, const int32_t* tokens, size_t count,
                                     const winnow_policy* policy, const winnow_prefill_options* options) {
  return guarded([&] {
    winnow_session& handle = required(session, "session");
    if (count > 0) required(tokens, "tokens");
    const winnow::Policy dense;
    const Turn turn(handle.shared->gate());
    prefill(handle, {tokens, count}, policy == nullptr ? dense : policy->policy, read_options(options));
  });
}

winnow_status winnow_session_decode(winnow_session* session, int32_t token) {
  return guarded([&] {
    winnow_session& handle = required(session, "session");
    const Turn turn(handle.shared->gate());
    if (handle.session.tokens() == 0) {
      winnow::fail(winnow::ErrorCode::kBadArgument, "the session has read nothing: prefill first");
    }
    handle.session.check_decode(token);
    handle.session.decode(token);
  });
}

winnow_status winnow_session_logits(winnow_session* session, const float** logits, size_t* count) {
  return guarded([&] {
    winnow_session& handle = required(session, "session");
    const Turn turn(handle.shared->gate());
    const std::span<const float> values = handle.session.logits();
    if (values.empty()) winnow::fail(winnow::ErrorCode::kBadArgument, "the session has read nothing");
    required(logits, "logits") = values.data();
    required(count, "count") = values.size();
  });
}

winnow_status winnow_session_stages(winnow_session* session, size_t* count) {
  return guarded([&] {
    winnow_session& handle = required(session, "session");
    const Turn turn(handle.shared->gate());
    required(count, "count") = handle.stages.size();
  });
}

winnow_status winnow_session_stage(winnow_session* session, size_t index, winnow_stage* stage) {
  return guarded([&] {
    winnow_session& handle = required(session, "session");
    const Turn turn(handle.shared->gate());
    write_result(stage, stage_of(handle, index));
  });
}

winnow_status winnow_session_stats(winnow_session* session, winnow_stats* stats) {
  return guarded([&] {
    winnow_session& handle = required(session, "session");
    const Turn turn(handle.shared->gate());
    write_result(stats, stats_of(handle));
  });
}

winnow_status winnow_generate(winnow_session* session, const winnow_generate_options* options,
                              winnow_answer* answer) {
  return guarded([&] {
    winnow_session& handle = required(session, "session");
    const winnow_generate_options given = read_options(options);
    if (required(answer, "answer").size < kFirstAnswerBytes) {
      winnow::fail(winnow::ErrorCode::kBadArgument, "answer: size is {}, expected {}", answer->size,
                   kFirstAnswerBytes);
    }
    const Turn turn(handle.shared->gate());
    write_result(answer, generate_answer(handle, given));
  });
}
