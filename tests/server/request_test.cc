#include "server/request.h"

#include <gtest/gtest.h>

#include "server/api_error.h"

namespace winnow {
namespace {

AnswerRequest chat(const std::string& body) { return parse_chat(parse_body(body)); }
AnswerRequest completion(const std::string& body) { return parse_completion(parse_body(body)); }

// A chat request with `more` beside a message.
std::string with(const std::string& more) {
  return R"({"messages": [{"role": "user", "content": "hi"}])" + (more.empty() ? "" : ", " + more) + "}";
}

template <class Parse>
void expect_refused(Parse parse, const std::string& body, const std::string& param, const std::string& part) {
  try {
    parse(body);
    ADD_FAILURE() << "accepted: " << body;
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), 400) << body;
    EXPECT_EQ(error.param(), param) << body;
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    EXPECT_EQ(error.body()["error"]["type"], "invalid_request_error");
  }
}

TEST(Request, Chat) {
  const AnswerRequest request = chat(R"({"model": "m", "messages": [
      {"role": "developer", "content": "Be brief."},
      {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "are you?"}]}],
    "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": -3, "stop": ["\n\n", "END"], "n": 2,
    "stream": true, "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 3, "user": "x",
    "tools": [], "response_format": {"type": "text"}, "presence_penalty": 0.0, "max_tokens": null,
    "winnow": {"policy": "keep08", "positions": true, "session": "a-1"}})");
  EXPECT_TRUE(request.chat);
  ASSERT_EQ(request.messages.size(), 2u);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[1].content, "Who are you?");
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_EQ(request.sampling.temperature, 0.5);
  EXPECT_TRUE(request.seeded);
  EXPECT_EQ(request.stop.size(), 2u);
  EXPECT_EQ(request.choices, 2);
  EXPECT_TRUE(request.stream && request.include_usage);
  EXPECT_EQ(request.top_logprobs, 3);
  EXPECT_EQ(request.winnow.policy, "keep08");
  EXPECT_TRUE(request.winnow.positions && request.winnow.prefix_cache);
}

TEST(Request, Defaults) {
  const AnswerRequest request = chat(with(""));
  EXPECT_EQ(request.sampling.temperature, 1);
  EXPECT_EQ(request.sampling.top_p, 1);
  EXPECT_FALSE(request.max_tokens || request.seeded || request.stream || request.top_logprobs);
  EXPECT_EQ(completion(R"({"prompt": "a"})").max_tokens, 16);
}

TEST(Request, Prompts) {
  EXPECT_EQ(completion(R"({"prompt": ["a"]})").prompt, "a");
  EXPECT_EQ(completion(R"({"prompt": [1, 2]})").prompt_tokens, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(completion(R"({"prompt": [[1, 2]]})").prompt_tokens, (std::vector<TokenId>{1, 2}));
}

TEST(Request, ChatFaultsNameTheField) {
  const std::pair<const char*, const char*> faults[] = {
      {R"("temperature": "warm")", "temperature"},
      {R"("temperature": 2.5)", "temperature"},
      {R"("temperature": -1)", "temperature"},
      {R"("top_p": 1.5)", "top_p"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("max_tokens": 1.5)", "max_tokens"},
      {R"("max_tokens": 99999999999999999999999)", "max_tokens"},
      {R"("max_tokens": 18446744073709551615)", "max_tokens"},
      {R"("max_tokens": 1, "max_completion_tokens": 1)", "max_tokens"},
      {R"("n": 0)", "n"},
      {R"("n": 1000)", "n"},
      {R"("stop": 3)", "stop"},
      {R"("stop": ["a", 3])", "stop[1]"},
      {R"("stop": [""])", "stop[0]"},
      {R"("stream": "yes")", "stream"},
      {R"("stream_options": {"include_usage": true})", "stream_options"},
      {R"("stream": true, "stream_options": {"x": 1})", "stream_options.x"},
      {R"("top_logprobs": 2)", "top_logprobs"},
      {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
      {R"("tools": [{"type": "function"}])", "tools"},
      {R"("tool_choice": "auto")", "tool_choice"},
      {R"("response_format": {"type": "json_object"})", "response_format"},
      {R"("presence_penalty": 0.5)", "presence_penalty"},
      {R"("logit_bias": {"1": 3})", "logit_bias"},
      {R"("no_such_field": 1)", "no_such_field"},
      {R"("winnow": 3)", "winnow"},
      {R"("winnow": {"policy": 3})", "winnow.policy"},
      {R"("winnow": {"polcy": "dense"})", "winnow.polcy"},
      {R"("winnow": {"max_kl": -1})", "winnow.max_kl"},
      {R"("winnow": {"max_kl": 1, "policy": "dense"})", "winnow.max_kl"},
      {R"("winnow": {"session": "../../etc/passwd"})", "winnow.session"},
      {R"("winnow": {"session": ""})", "winnow.session"},
  };
  for (const auto& [more, param] : faults) expect_refused(chat, with(more), param, param);
}

TEST(Request, MessageFaults) {
  expect_refused(chat, "{}", "messages", "missing");
  expect_refused(chat, R"({"messages": []})", "messages", "empty");
  expect_refused(chat, R"({"messages": "hi"})", "messages", "list");
  expect_refused(chat, R"({"messages": ["hi"]})", "messages[0]", "object");
  expect_refused(chat, R"({"messages": [{"content": "a"}]})", "messages[0].role", "missing");
  expect_refused(chat, R"({"messages": [{"role": "tool", "content": "a"}]})", "messages[0].role", "must be");
  expect_refused(chat, R"({"messages": [{"role": "user"}]})", "messages[0].content", "missing");
  expect_refused(chat, R"({"messages": [{"role": "user", "content": 3}]})", "messages[0].content", "text");
  expect_refused(chat, R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
                 "messages[0].content[0].type", "text only");
  expect_refused(chat, R"({"messages": [{"role": "user", "content": "a", "name": "b"}]})", "messages[0].name",
                 "no field");
}

TEST(Request, CompletionFaults) {
  expect_refused(completion, "{}", "prompt", "missing");
  expect_refused(completion, R"({"prompt": ""})", "prompt", "empty");
  expect_refused(completion, R"({"prompt": []})", "prompt", "empty");
  expect_refused(completion, R"({"prompt": ["a", "b"]})", "prompt", "2 prompts");
  expect_refused(completion, R"({"prompt": [1, -1]})", "prompt[1]", "token id");
  expect_refused(completion, R"({"prompt": [1, 1e30]})", "prompt[1]", "token id");
  expect_refused(completion, R"({"prompt": "a", "echo": true})", "echo", "not supported");
  expect_refused(completion, R"({"prompt": "a", "best_of": 3})", "best_of", "not supported");
  expect_refused(completion, R"({"prompt": "a", "messages": []})", "messages", "no field");
}

TEST(Request, BodiesThatAreNoJson) {
  expect_refused(chat, "", "", "JSON");
  expect_refused(chat, "{", "", "JSON");
  expect_refused(chat, "[]", "", "no object");
  expect_refused(chat, R"({"a": 1e999})", "", "JSON");
  expect_refused(chat, R"({"n": 1, "n": 2})", "", "twice");
  expect_refused(chat, "{\"a\": \"\xff\"}", "", "JSON");
  expect_refused(chat, R"({"a": "\ud800"})", "", "JSON");
  expect_refused(chat, std::string(100000, '['), "", "nested");
  expect_refused(chat, R"({"a": )" + std::string(100, '[') + std::string(100, ']') + "}", "", "nested");
}

TEST(Request, Tokenize) {
  const auto tokenize = [](const std::string& body) { return parse_tokenize(parse_body(body)); };
  EXPECT_EQ(tokenize(R"({"content": "a", "pieces": true})").content, "a");
  EXPECT_EQ(tokenize(R"({"messages": [{"role": "user", "content": "a"}]})").messages.size(), 1u);
  expect_refused(tokenize, "{}", "content", "missing");
  expect_refused(tokenize, R"({"content": "a", "messages": []})", "content", "together");
}

}  // namespace
}  // namespace winnow
