// Engines, text and tokens, policies.
#include <nlohmann/json.hpp>

#include "capi/handles.h"
#include "formats/json_text.h"
#include "runtime/kv_choice.h"

namespace winnow::capi {
namespace {

constexpr std::size_t kMaxPolicyBytes = 1 << 20;  // as parse_policy()

Precision precision_of(const std::string& name) {
  if (name == "bf16") return Precision::kBF16;
  if (name == "f32") return Precision::kF32;
  if (name == "int8") return Precision::kInt8;
  fail(ErrorCode::kBadArgument, "precision \"{}\": must be bf16, f32 or int8", name);
}

KvType kv_of(const std::string& name) {
  if (const auto kv = kv_type_of(name)) return *kv;
  fail(ErrorCode::kBadArgument, "kv \"{}\": must be same or q8", name);
}

EngineOptions engine_options(const winnow_engine_options& given) {
  if (given.threads < 0)
    fail(ErrorCode::kBadArgument, "threads is {}: must be 0 (all) or more", given.threads);
  EngineOptions options{.model = or_default(given.model, ""),
                        .random_weights = or_default(given.random_weights, ""),
                        .seed = given.seed,
                        .device = or_default(given.device, "cpu"),
                        .precision = precision_of(or_default(given.precision, "bf16")),
                        .kv = kv_of(or_default(given.kv, "same")),
                        .threads = given.threads,
                        .progress = {}};
  if (options.model.empty() == options.random_weights.empty()) {
    fail(ErrorCode::kBadArgument, "name a model or random_weights, one of the two");
  }
  if (given.progress != nullptr) {
    options.progress = [given](double share) { given.progress(share, given.user_data); };
  }
  return options;
}

void return_tokens(const std::vector<TokenId>& ids, std::int32_t** tokens, std::size_t* count) {
  required(tokens, "tokens");
  required(count, "count") = ids.size();
  *tokens = caller_owned(ids.data(), ids.size());
}

Policy parse(const std::string& text, const ModelFacts& model) {
  if (!text.starts_with('{')) return parse_policy(text, model);
  constexpr const char* kOrigin = "the policy's JSON";
  Policy policy = policy_from_json(parse_json_object(text, kOrigin, kMaxPolicyBytes), kOrigin);
  policy.name = "json";
  check_policy(policy, model, kOrigin);
  return policy;
}

}  // namespace
}  // namespace winnow::capi

using namespace winnow::capi;

winnow_status winnow_engine_open(const winnow_engine_options* options, winnow_engine** engine) {
  return guarded([&] {
    required(engine, "engine");
    const winnow::EngineOptions given = engine_options(read_options(&required(options, "options")));
    std::shared_ptr<Gate> gate = Gate::of(given.device);
    const Turn turn(gate);
    *engine = new winnow_engine{std::make_shared<SharedEngine>(winnow::Engine::open(given), std::move(gate))};
  });
}

void winnow_engine_close(winnow_engine* engine) { delete engine; }

winnow_status winnow_engine_info(const winnow_engine* engine, winnow_model_info* info) {
  return guarded([&] {
    const winnow::Engine& opened = **required(engine, "engine").shared;
    const winnow::Architecture& arch = opened.arch();
    winnow_model_info result{};
    result.name = arch.name.c_str();
    result.layers = arch.layers;
    result.heads = arch.heads;
    result.kv_heads = arch.kv_heads;
    result.model_dim = arch.model_dim;
    result.vocab = arch.vocab;
    result.context = arch.context;
    result.has_tokenizer = opened.has_tokenizer() ? 1 : 0;
    result.has_chat_template = opened.has_tokenizer() && opened.tokenizer().has_chat_template() ? 1 : 0;
    write_result(info, result);
  });
}

winnow_status winnow_tokenize(winnow_engine* engine, const char* text, size_t bytes, int32_t parse_special,
                              int32_t** tokens, size_t* count) {
  return guarded([&] {
    const winnow::Tokenizer& tokenizer = (*required(engine, "engine").shared)->tokenizer();
    if (bytes > 0) required(text, "text");
    const std::string_view whole = bytes == 0 ? std::string_view() : std::string_view(text, bytes);
    return_tokens(tokenizer.encode(whole, parse_special != 0), tokens, count);
  });
}

winnow_status winnow_tokenize_chat(winnow_engine* engine, const char* const* roles,
                                   const char* const* contents, size_t messages, int32_t** tokens,
                                   size_t* count) {
  return guarded([&] {
    const winnow::Tokenizer& tokenizer = (*required(engine, "engine").shared)->tokenizer();
    if (!tokenizer.has_chat_template()) {
      winnow::fail(winnow::ErrorCode::kBadArgument, "this model has no chat template");
    }
    std::vector<winnow::ChatMessage> conversation;
    for (std::size_t i = 0; i < messages; ++i) {
      conversation.push_back(
          {&required(required(roles, "roles") == nullptr ? nullptr : roles[i], "a role"),
           &required(required(contents, "contents") == nullptr ? nullptr : contents[i], "a content")});
    }
    return_tokens(tokenizer.encode_chat(conversation, /*add_generation_prompt=*/true), tokens, count);
  });
}

winnow_status winnow_detokenize(winnow_engine* engine, const int32_t* tokens, size_t count, char** text,
                                size_t* bytes) {
  return guarded([&] {
    const winnow::Tokenizer& tokenizer = (*required(engine, "engine").shared)->tokenizer();
    if (count > 0) required(tokens, "tokens");
    for (std::size_t i = 0; i < count; ++i) {
      if (tokens[i] < 0 || tokens[i] >= tokenizer.vocab_size()) {
        winnow::fail(winnow::ErrorCode::kBadArgument, "token {} is {}: the vocabulary has 0..{}", i,
                     tokens[i], tokenizer.vocab_size() - 1);
      }
    }
    const std::string decoded = tokenizer.decode({tokens, tokens + count}, /*skip_control=*/true);
    required(text, "text") = caller_owned(decoded);
    if (bytes != nullptr) *bytes = decoded.size();
  });
}

winnow_status winnow_policy_parse(const winnow_engine* engine, const char* text, winnow_policy** policy) {
  return guarded([&] {
    const SharedEngine& shared = *required(engine, "engine").shared;
    required(policy, "policy");
    *policy = new winnow_policy{parse(&required(text, "text"), shared->facts())};
  });
}

void winnow_policy_free(winnow_policy* policy) { delete policy; }

winnow_status winnow_policy_json(const winnow_policy* policy, char** json) {
  return guarded([&] {
    required(json, "json") = caller_owned(winnow::policy_to_json(required(policy, "policy").policy).dump(2));
  });
}
