#include "server/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <random>
#include <utility>

#include "core/byte_reader.h"
#include "core/elapsed.h"
#include "server/api_error.h"

namespace winnow {
namespace {

using nlohmann::json;

std::uint64_t random_bits() {
  thread_local std::mt19937_64 generator{(std::uint64_t{std::random_device{}()} << 32) |
                                         std::random_device{}()};
  return generator();
}

}  // namespace

Service::Service(const Engine& engine, PolicyBook policies, Scheduler& scheduler,
                 const ServiceOptions& options)
    : engine_(engine),
      policies_(std::move(policies)),
      scheduler_(scheduler),
      options_(options),
      fingerprint_(fmt::format("winnow-{}-{:08x}", WINNOW_VERSION, engine.source().content_hash() >> 32)),
      started_(std::time(nullptr)) {
  engine.tokenizer();  // throws where there is none
}

std::unique_ptr<Answering> Service::chat(std::string_view body) {
  return begin(parse_chat(parse_body(body)));
}

std::unique_ptr<Answering> Service::complete(std::string_view body) {
  return begin(parse_completion(parse_body(body)));
}

void Service::check_running() const {
  const std::string why = failure();
  if (!why.empty())
    throw ApiError(503, "", "engine_failed", fmt::format("the server must be started again: {}", why));
}

std::unique_ptr<Answering> Service::begin(AnswerRequest request) {
  check_running();
  check_model(request.model);
  if (!request.seeded) request.sampling.seed = random_bits() >> 12;  // an integer in every JSON reader
  JobSpec spec;
  spec.session_file = session_file(request.winnow);
  const auto start = Clock::now();
  spec.prompt = tokens_of(request);
  spec.policy = policy_of(request.winnow, static_cast<std::int64_t>(spec.prompt.size()));
  AnswerHead head{.id = fmt::format("{}-{:016x}", request.chat ? "chatcmpl" : "cmpl", random_bits()),
                  .model = options_.model_id,
                  .fingerprint = fingerprint_,
                  .policy = spec.policy.name,
                  .created = std::time(nullptr),
                  .tokenise_ms = ms_since(start),
                  .seed = request.sampling.seed,
                  .pieces = {}};
  spec.max_tokens = answer_tokens(request, static_cast<std::int64_t>(spec.prompt.size()));
  if (request.winnow.pieces) head.pieces = token_texts(engine_.tokenizer(), spec.prompt);
  spec.sampling = request.sampling;
  spec.choices = request.choices;
  spec.stop = request.stop;
  spec.top_logprobs = request.top_logprobs;
  spec.begins_text = request.chat;
  spec.ignore_eos = request.winnow.ignore_eos;
  spec.prefix_cache = request.winnow.prefix_cache;
  spec.positions = request.winnow.positions;
  std::shared_ptr<Job> job = scheduler_.submit(std::move(spec));
  return std::make_unique<Answering>(std::move(request), engine_.tokenizer(), std::move(head),
                                     std::move(job));
}

void Service::check_model(const std::string& id) const {
  if (id.empty() || id == options_.model_id) return;
  throw ApiError(
      404, "model", "model_not_found",
      fmt::format("model: there is no \"{}\" here, only \"{}\"", printable(id), options_.model_id));
}

std::vector<TokenId> Service::chat_tokens(const std::vector<ChatMessage>& messages) const {
  if (!engine_.tokenizer().has_chat_template())
    bad_field("messages", "this model has no chat template: use /v1/completions");
  try {
    return engine_.tokenizer().encode_chat(messages, /*add_generation_prompt=*/true);
  } catch (const Error& error) {
    bad_field("messages", "{}", error.what());
  }
}

std::vector<TokenId> Service::tokens_of(const AnswerRequest& request) const {
  if (request.chat) return chat_tokens(request.messages);
  if (request.prompt_tokens.empty()) {
    auto tokens = engine_.tokenizer().encode(request.prompt, /*parse_special=*/false);
    if (tokens.empty()) bad_field("prompt", "has no tokens");
    return tokens;
  }
  for (std::size_t i = 0; i < request.prompt_tokens.size(); ++i) {
    if (request.prompt_tokens[i] >= engine_.arch().vocab)
      bad_field(fmt::format("prompt[{}]", i), "is {}, the model has {} tokens", request.prompt_tokens[i],
                engine_.arch().vocab);
  }
  return request.prompt_tokens;
}

std::int64_t Service::answer_tokens(const AnswerRequest& request, std::int64_t prompt_tokens) const {
  const std::string field = request.chat ? "messages" : "prompt";
  const std::int64_t context = engine_.arch().context;
  if (options_.max_prompt_tokens > 0 && prompt_tokens > options_.max_prompt_tokens) {
    throw ApiError(400, field, "prompt_too_long",
                   fmt::format("{}: has {} tokens, this server takes at most {}", field, prompt_tokens,
                               options_.max_prompt_tokens));
  }
  const std::int64_t wanted = request.max_tokens.value_or(1);
  if (prompt_tokens + wanted > context) {
    throw ApiError(
        400, field, "context_length_exceeded",
        fmt::format(
            "{}: the model's context is {} tokens, the request needs {} ({} of the prompt, {} of the answer)",
            field, context, prompt_tokens + wanted, prompt_tokens, wanted));
  }
  return request.max_tokens.value_or(std::min(options_.default_max_tokens, context - prompt_tokens));
}

Policy Service::policy_of(const WinnowField& winnow, std::int64_t prompt_tokens) const {
  if (winnow.max_kl) return policies_.fastest_within(*winnow.max_kl, prompt_tokens);
  return winnow.policy ? policies_.find(*winnow.policy) : policies_.standard();
}

std::string Service::session_file(const WinnowField& winnow) const {
  if (!winnow.session) return "";
  if (options_.session_folder.empty())
    bad_field("winnow.session", "this server keeps no sessions (winnow serve --session-folder)");
  return options_.session_folder + "/" + *winnow.session + ".session";
}

json Service::tokenize(std::string_view body) const {
  const TokenizeRequest request = parse_tokenize(parse_body(body));
  check_model(request.model);
  const std::vector<TokenId> tokens = request.messages.empty()
                                          ? engine_.tokenizer().encode(request.content, request.parse_special)
                                          : chat_tokens(request.messages);
  json result = {{"tokens", tokens}, {"count", tokens.size()}, {"max_model_len", engine_.arch().context}};
  if (request.pieces) result["pieces"] = token_texts(engine_.tokenizer(), tokens);
  return result;
}

json Service::model(const std::string& id) const {
  check_model(id);
  return {{"id", options_.model_id},
          {"object", "model"},
          {"created", started_},
          {"owned_by", "winnow"},
          {"max_model_len", engine_.arch().context},
          {"winnow",
           {{"name", engine_.arch().name},
            {"layers", engine_.arch().layers},
            {"shape_hash", engine_.arch().shape_hash()},
            {"chat", engine_.tokenizer().has_chat_template()},
            {"backend", engine_.backend().description()},
            {"version", WINNOW_VERSION},
            {"default_policy", policies_.standard().name},
            {"policies", policies_.list()}}}};
}

json Service::models() const { return {{"object", "list"}, {"data", json::array({model("")})}}; }

}  // namespace winnow
