// The server on a socket, by real requests on the loopback address.
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <thread>

#include "server/http_server.h"
#include "serving.h"

namespace winnow {
namespace {

using nlohmann::json;

constexpr const char* kJson = "application/json";

// Everything a server is made of, on a free port.
class Server {
 public:
  explicit Server(HttpOptions http = {}, SchedulerOptions scheduling = {},
                  ServiceOptions serving = {.model_id = "tiny"})
      : scheduler_(engine(), scheduling, metrics_),
        service_(engine(), policies(), scheduler_, serving),
        http_(service_, metrics_, on_free_port(std::move(http))),
        thread_([this] { http_.run(); }) {}
  ~Server() {
    scheduler_.stop();
    http_.stop();
    thread_.join();
  }

  httplib::Client client() const {
    httplib::Client result("127.0.0.1", http_.port());
    result.set_read_timeout(60);
    return result;
  }
  json post(const std::string& path, const json& body, int status = 200) const {
    auto connection = client();
    const auto result = connection.Post(path, body.dump(), kJson);
    if (!result) {
      ADD_FAILURE() << "no answer: " << httplib::to_string(result.error());
      return {};
    }
    EXPECT_EQ(result->status, status) << result->body;
    return json::parse(result->body);
  }
  HttpServer& http() { return http_; }
  int port() const { return http_.port(); }
  Scheduler& scheduler() { return scheduler_; }
  Metrics& metrics() { return metrics_; }

 private:
  static HttpOptions on_free_port(HttpOptions options) {
    options.port = 0;
    options.threads = 24;
    return options;
  }
  static PolicyBook policies() {
    PolicyBook book(engine().facts(), "dense");
    Policy half = staged(ScorerKind::kAttention, 0.5);
    half.name = "half";
    half.measured = {{"kl", 0.3}, {"speedup", 1.5}};
    book.add("half", half);
    return book;
  }

  Metrics metrics_;
  Scheduler scheduler_;
  Service service_;
  HttpServer http_;
  std::thread thread_;
};

// A socket of its own, for what no client would send.
int connected_to(const Server& server) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(server.port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const timeval limit{.tv_sec = 20, .tv_usec = 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  return socket;
}

// All that comes back until the server closes; "waits" at the end when it does not.
std::string answer_to(const Server& server, const std::string& request) {
  const int socket = connected_to(server);
  EXPECT_EQ(::send(socket, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string answer;
  std::array<char, 4096> buffer;
  ssize_t count = 0;
  while ((count = ::recv(socket, buffer.data(), buffer.size(), 0)) > 0)
    answer.append(buffer.data(), static_cast<std::size_t>(count));
  if (count < 0 && errno == EAGAIN) answer += "waits";
  ::close(socket);
  return answer;
}

json user(const std::string& text) { return json::array({{{"role", "user"}, {"content", text}}}); }

json greedy_chat(const std::string& text, int max_tokens) {
  return {{"model", "tiny"},
          {"messages", user(text)},
          {"temperature", 0},
          {"max_tokens", max_tokens},
          {"winnow", {{"ignore_eos", true}}}};
}

std::vector<json> events_of(const std::string& body) {
  std::vector<json> events;
  std::istringstream stream(body);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("data: {")) events.push_back(json::parse(line.substr(6)));
  }
  EXPECT_TRUE(body.ends_with("data: [DONE]\n\n")) << body;
  return events;
}

// The characters that begin in a token of the older API: its text, or "bytes:\\xe2\\x80".
std::int64_t characters_named(const std::string& token) {
  constexpr std::string_view kBytes = "bytes:";
  std::string bytes = token;
  if (token.starts_with(kBytes)) {
    bytes.clear();
    for (std::size_t at = kBytes.size(); at < token.size(); at += 4)
      bytes += static_cast<char>(std::stoi(token.substr(at + 2, 2), nullptr, 16));
  }
  return std::count_if(bytes.begin(), bytes.end(), [](char byte) { return (byte & 0xC0) != 0x80; });
}

TEST(Http, ChatWholeAndStreamedAreOneAnswer) {
  const Server server;
  json request = greedy_chat("wind and corn", 12);
  const json whole = server.post("/v1/chat/completions", request);
  EXPECT_EQ(whole["object"], "chat.completion");
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(whole["usage"]["completion_tokens"], 12);
  EXPECT_EQ(whole["usage"]["prompt_tokens_details"]["kept_tokens"], whole["usage"]["prompt_tokens"]);
  EXPECT_EQ(whole["winnow"]["policy"], "dense");
  EXPECT_GT(whole["winnow"]["ttft_ms"], 0);
  request["stream"] = true;
  request["stream_options"] = {{"include_usage", true}};
  auto client = server.client();
  const auto streamed = client.Post("/v1/chat/completions", request.dump(), kJson);
  ASSERT_TRUE(streamed);
  EXPECT_EQ(streamed->get_header_value("Content-Type"), "text/event-stream");
  const auto events = events_of(streamed->body);
  ASSERT_GE(events.size(), 4u);
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[0]["winnow"]["kept_tokens"], whole["usage"]["prompt_tokens"]);
  std::string text;
  for (const json& event : events) {
    if (!event["choices"].empty()) text += event["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, whole["choices"][0]["message"]["content"].get<std::string>());
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 12);
  EXPECT_TRUE(events[0].contains("usage") && events[0]["usage"].is_null()) << events[0];
  EXPECT_EQ(events[events.size() - 2]["choices"][0]["finish_reason"], "length");
}

TEST(Http, CompletionLogprobsChoicesAndStops) {
  const Server server;
  json request = {
      {"prompt", "wind and corn"},       {"temperature", 0}, {"max_tokens", 6}, {"logprobs", 2}, {"n", 2},
      {"winnow", {{"ignore_eos", true}}}};
  const json answer = server.post("/v1/completions", request);
  ASSERT_EQ(answer["choices"].size(), 2u);
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["choices"][0]["text"], answer["choices"][1]["text"]);
  EXPECT_EQ(answer["choices"][0]["logprobs"]["tokens"].size(), 6u);
  EXPECT_EQ(answer["choices"][0]["logprobs"]["top_logprobs"][0].size(), 2u);
  const std::string text = answer["choices"][0]["text"];
  const json& logprobs = answer["choices"][0]["logprobs"];
  std::int64_t before = 0;
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(logprobs["text_offset"][i], before) << logprobs["tokens"];
    before += characters_named(logprobs["tokens"][i]);
  }
  EXPECT_GT(before, 0);
  request["stream"] = true;
  auto client = server.client();
  json offsets = json::array();
  for (const json& event : events_of(client.Post("/v1/completions", request.dump(), kJson)->body)) {
    const json& choice = event["choices"][0];
    if (choice["index"] == 0 && !choice["logprobs"].is_null())
      offsets.push_back(choice["logprobs"]["text_offset"][0]);
  }
  EXPECT_EQ(offsets, logprobs["text_offset"]);
  request["stream"] = false;
  request["stop"] = text.substr(text.size() / 2);
  const json stopped = server.post("/v1/completions", request);
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
  EXPECT_LE(stopped["choices"][0]["text"].get<std::string>().size(), text.size() / 2);
}

TEST(Http, PolicyByNameAndByBudget) {
  const Server server;
  json request = greedy_chat(std::string(300, 'w'), 2);
  request["winnow"] = {{"policy", "half"}, {"positions", true}, {"pieces", true}};
  const json pruned = server.post("/v1/chat/completions", request);
  const auto prompt_tokens = pruned["usage"]["prompt_tokens"].get<std::size_t>();
  EXPECT_LT(pruned["usage"]["prompt_tokens_details"]["kept_tokens"], prompt_tokens);
  EXPECT_EQ(pruned["winnow"]["pieces"].size(), prompt_tokens);
  ASSERT_EQ(pruned["winnow"]["stages"].size(), 2u);
  EXPECT_EQ(pruned["winnow"]["stages"][0]["kept_positions"].size(),
            pruned["winnow"]["stages"][0]["tokens_kept"]);
  request["winnow"] = {{"max_kl", 0.5}};
  EXPECT_EQ(server.post("/v1/chat/completions", request)["winnow"]["policy"], "half");
  request["winnow"] = {{"max_kl", 0.1}};
  const json refused = server.post("/v1/chat/completions", request, 400);
  EXPECT_EQ(refused["error"]["param"], "winnow.max_kl");
  EXPECT_NE(refused["error"]["message"].get<std::string>().find("half (KL 0.3"), std::string::npos);
}

TEST(Http, FaultsAreOpenAiShaped) {
  const Server server;
  const auto param_of = [&](const json& request, int status) {
    return server.post("/v1/chat/completions", request, status)["error"]["param"];
  };
  EXPECT_EQ(param_of({{"model", "gpt-4"}, {"messages", user("a")}}, 404), "model");
  EXPECT_EQ(param_of({{"messages", json::array()}}, 400), "messages");
  EXPECT_EQ(param_of({{"messages", user("a")}, {"tools", {{{"type", "function"}}}}}, 400), "tools");
  EXPECT_EQ(param_of({{"messages", user("a")}, {"n", 9}}, 400), "n");
  EXPECT_EQ(param_of({{"messages", user("a")}, {"winnow", {{"policy", "/etc/passwd"}}}}, 400),
            "winnow.policy");
  EXPECT_EQ(param_of({{"messages", user("a")}, {"winnow", {{"session", "x"}}}}, 400), "winnow.session");
  const json overflow = server.post("/v1/chat/completions", greedy_chat("a", 600), 400);
  EXPECT_EQ(overflow["error"]["code"], "context_length_exceeded");
  const std::string message = overflow["error"]["message"];
  EXPECT_NE(message.find("context is 512 tokens"), std::string::npos) << message;
  EXPECT_NE(message.find("600 of the answer"), std::string::npos) << message;
  EXPECT_EQ(server.post("/v1/completions", {{"prompt", {1, 400}}}, 400)["error"]["param"], "prompt[1]");
  auto client = server.client();
  const auto bad = client.Post("/v1/chat/completions", "{\"messages\": \xff", kJson);
  ASSERT_TRUE(bad);
  EXPECT_EQ(bad->status, 400);
  EXPECT_EQ(json::parse(bad->body)["error"]["code"], "invalid_json");
  const auto nowhere = client.Get("/v2/nothing");
  ASSERT_TRUE(nowhere);
  EXPECT_EQ(nowhere->status, 404);
  EXPECT_EQ(json::parse(nowhere->body)["error"]["code"], "not_found");
  const auto form = client.Post("/v1/chat/completions", "a=b", "text/plain");
  ASSERT_TRUE(form);
  EXPECT_EQ(form->status, 415);
  const auto read = client.Get("/v1/chat/completions");
  ASSERT_TRUE(read);
  EXPECT_EQ(read->status, 405);
  EXPECT_EQ(read->get_header_value("Allow"), "POST");
  EXPECT_EQ(json::parse(read->body)["error"]["code"], "method_not_allowed");
  const auto posted = client.Post("/v1/models/tiny", "{}", kJson);
  ASSERT_TRUE(posted);
  EXPECT_EQ(posted->status, 405);
  EXPECT_EQ(posted->get_header_value("Allow"), "GET");
}

// One line of a request's body that is wrong, where it is sent, and what the error must name.
struct BadRequest {
  const char* path;
  std::string body;
  const char* param;  // nullptr: no field
};

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kTokenize = "/tokenize";

// A chat request with `more` beside a message.
BadRequest chat_with(const std::string& more, const char* param) {
  return {kChat, R"({"messages": [{"role": "user", "content": "hi"}], )" + more + "}", param};
}

BadRequest chat_of(const std::string& messages, const char* param) {
  return {kChat, R"({"messages": )" + messages + "}", param};
}

BadRequest completion_of(const std::string& prompt, const char* param) {
  return {kCompletions, R"({"prompt": )" + prompt + "}", param};
}

std::vector<BadRequest> bad_requests() {
  std::vector<BadRequest> all = {
      chat_with(R"("model": "gpt-4")", "model"),
      chat_with(R"("model": "")", "model"),
      chat_with(R"("model": ["tiny"])", "model"),
      chat_with(R"("temperature": "warm")", "temperature"),
      chat_with(R"("temperature": 1e308)", "temperature"),
      chat_with(R"("top_p": -0.1)", "top_p"),
      chat_with(R"("top_k": 1.5)", "top_k"),
      chat_with(R"("seed": 9223372036854775808)", "seed"),
      chat_with(R"("seed": "a")", "seed"),
      chat_with(R"("max_tokens": 0)", "max_tokens"),
      chat_with(R"("max_tokens": true)", "max_tokens"),
      chat_with(R"("max_tokens": "5")", "max_tokens"),
      chat_with(R"("max_tokens": )" + std::string(300, '9'), "max_tokens"),
      chat_with(R"("max_completion_tokens": -1)", "max_completion_tokens"),
      chat_with(R"("n": 2.0)", "n"),
      chat_with(R"("n": 9)", "n"),  // more than run at once
      chat_with(R"("n": 1000000)", "n"),
      chat_with(R"("stop": {})", "stop"),
      chat_with(R"("stop": [[]])", "stop[0]"),
      chat_with(R"("stop": ["a", ""])", "stop[1]"),
      chat_with(R"("stream": 1)", "stream"),
      chat_with(R"("stream_options": {})", "stream_options"),
      chat_with(R"("stream": true, "stream_options": [])", "stream_options"),
      chat_with(R"("stream": true, "stream_options": {"include_usage": 1})", "stream_options.include_usage"),
      chat_with(R"("logprobs": 3)", "logprobs"),
      chat_with(R"("top_logprobs": 3)", "top_logprobs"),
      chat_with(R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"),
      chat_with(R"("tools": [{"type": "function"}])", "tools"),
      chat_with(R"("tool_choice": "required")", "tool_choice"),
      chat_with(R"("parallel_tool_calls": true)", "parallel_tool_calls"),
      chat_with(R"("functions": [{}])", "functions"),
      chat_with(R"("response_format": {"type": "json_schema", "json_schema": {}})", "response_format"),
      chat_with(R"("response_format": "text")", "response_format"),
      chat_with(R"("presence_penalty": 1)", "presence_penalty"),
      chat_with(R"("frequency_penalty": "x")", "frequency_penalty"),
      chat_with(R"("logit_bias": {"5": 1})", "logit_bias"),
      chat_with(R"("modalities": ["audio"])", "modalities"),
      chat_with(R"("store": true)", "store"),
      chat_with(R"("wings": 2)", "wings"),
      chat_with(R"("winnow": "keep08")", "winnow"),
      chat_with(R"("winnow": {"polcy": "dense"})", "winnow.polcy"),
      chat_with(R"("winnow": {"policy": 3})", "winnow.policy"),
      chat_with(R"("winnow": {"policy": "keep06"})", "winnow.policy"),
      chat_with(R"("winnow": {"policy": "/etc/passwd"})", "winnow.policy"),
      chat_with(R"("winnow": {"policy": "pooled=1e999"})", "winnow.policy"),
      chat_with(R"("winnow": {"max_kl": -1})", "winnow.max_kl"),
      chat_with(R"("winnow": {"max_kl": 0.01})", "winnow.max_kl"),  // costs more
      chat_with(R"("winnow": {"positions": 1})", "winnow.positions"),
      chat_with(R"("winnow": {"session": "../x"})", "winnow.session"),
      chat_with(R"("winnow": {"session": "x"})", "winnow.session"),  // this server keeps none
      chat_with(R"("winnow": {"prefix_cache": 0})", "winnow.prefix_cache"),
      chat_of("null", "messages"),
      chat_of("{}", "messages"),
      chat_of("[]", "messages"),
      chat_of("[null]", "messages[0]"),
      chat_of("[{}]", "messages[0].role"),
      chat_of(R"([{"role": 1, "content": "a"}])", "messages[0].role"),
      chat_of(R"([{"role": "user", "content": "a"}, {"role": "tool", "content": "a"}])", "messages[1].role"),
      chat_of(R"([{"role": "user"}])", "messages[0].content"),
      chat_of(R"([{"role": "user", "content": []}])", "messages[0].content"),
      chat_of(R"([{"role": "user", "content": ["a"]}])", "messages[0].content[0]"),
      chat_of(R"([{"role": "user", "content": [{"type": "image_url"}]}])", "messages[0].content[0].type"),
      chat_of(R"([{"role": "user", "content": [{"type": "text"}]}])", "messages[0].content[0].text"),
      chat_of(R"([{"role": "assistant", "content": "a", "tool_calls": [{}]}])", "messages[0].tool_calls"),
      chat_of(R"([{"role": "user", "content": "a", "name": "b"}])", "messages[0].name"),
      chat_of(R"([{"role": "user", "content": ")" + std::string(5000, 'w') + R"("}])", "messages"),
      completion_of("null", "prompt"),
      completion_of(R"("")", "prompt"),
      completion_of("[]", "prompt"),
      completion_of("[[]]", "prompt"),
      completion_of(R"(["a", "b"])", "prompt"),
      completion_of("[1.5]", "prompt[0]"),
      completion_of("[1, -1]", "prompt[1]"),
      completion_of("[1, 1099511627776]", "prompt[1]"),
      completion_of("[1, 400]", "prompt[1]"),  // no token of the model
      completion_of(R"("a", "logprobs": true)", "logprobs"),
      completion_of(R"("a", "echo": true)", "echo"),
      completion_of(R"("a", "suffix": "b")", "suffix"),
      completion_of(R"("a", "best_of": 2)", "best_of"),
      completion_of(R"("a", "messages": [])", "messages"),
      completion_of(R"("a", "max_tokens": 600)", "prompt"),
      {kTokenize, "{}", "content"},
      {kTokenize, R"({"content": 3})", "content"},
      {kTokenize, R"({"content": "a", "pieces": 3})", "pieces"},
      {kTokenize, R"({"content": "a", "model": "b"})", "model"},
  };
  const std::string broken[] = {"",
                                "{",
                                "[]",
                                "null",
                                "{}x",
                                R"({"n": 1, "n": 2})",
                                R"({"a": 1e999})",
                                "{\"a\": \"\xff\"}",
                                "{\"a\": \"\xed\xa0\x80\"}",
                                R"({"a": "\ud800"})",
                                "{'a': 1}",
                                R"({"a": )" + std::string(9000, '[') + std::string(9000, ']') + "}"};
  for (const std::string& body : broken) {
    for (const char* path : {kChat, kCompletions, kTokenize}) all.push_back({path, body, nullptr});
  }
  return all;
}

TEST(Http, EveryBadRequestIsAnErrorThatNamesTheField) {
  const Server server;
  auto client = server.client();
  client.set_keep_alive(true);
  client.set_tcp_nodelay(true);
  for (const BadRequest& bad : bad_requests()) {
    const std::string what = bad.path + (" " + bad.body.substr(0, 120));
    const auto result = client.Post(bad.path, bad.body, kJson);
    ASSERT_TRUE(result) << what;
    EXPECT_TRUE(result->status == 400 || result->status == 404) << result->status << ": " << what;
    const json error = json::parse(result->body)["error"];
    ASSERT_TRUE(error.is_object()) << what;
    for (const char* key : {"message", "type", "param", "code"}) EXPECT_TRUE(error.contains(key)) << what;
    EXPECT_EQ(error["type"], "invalid_request_error") << what;
    EXPECT_EQ(error["param"], bad.param == nullptr ? json() : json(bad.param)) << what;
    const std::string message = error["message"];
    EXPECT_TRUE(message.starts_with(bad.param == nullptr ? "request body: " : bad.param)) << message;
    EXPECT_LT(message.size(), 1000u) << what;
  }
  server.post(kChat, greedy_chat("still alive", 1));
}

TEST(Http, Bodies) {
  const Server server({.max_body_bytes = 100000});
  auto client = server.client();
  const auto large = client.Post("/v1/completions", std::string(200000, ' '), kJson);
  ASSERT_TRUE(large);
  EXPECT_EQ(large->status, 413);
  EXPECT_EQ(json::parse(large->body)["error"]["code"], "body_too_large");
  int sent = 0;  // without a length the server must count itself
  auto chunked = server.client();
  const auto endless = chunked.Post(
      "/v1/completions",
      [&](std::size_t, httplib::DataSink& sink) {
        const std::string part(10000, ' ');
        if (++sent > 100 || !sink.write(part.data(), part.size())) sink.done();
        return true;
      },
      kJson);
  if (endless) {
    EXPECT_EQ(endless->status, 413);
  }
  EXPECT_GT(server.post("/tokenize", {{"content", "wind"}})["count"], 0) << "still alive";
}

// Answered, and closed: nobody can tell where the next request would begin.
TEST(Http, WhatIsNoHttpIsRefusedAtOnce) {
  const Server server;
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
  const std::string inner = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const std::pair<std::string, int> requests[] = {
      {"garbage\r\n\r\n", 400},
      {"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400},
      {head + "\r\n", 411},
      {head + "Content-Length: abc\r\n\r\n", 400},
      {head + "Content-Length: -5\r\n\r\n", 400},
      {head + "Content-Length: 99999999999999999999999\r\n\r\n", 413},
      {head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400},
      {head + "Transfer-Encoding: identity\r\n\r\n{}", 501},
      {head + "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 501},
      {head + "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400},
      {head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400},
      {head + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400},
      // A body that is not read is no second request.
      {"GET /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(inner.size()) +
           "\r\n\r\n" + inner,
       405},
      {"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n" + inner, 404},
      {"PUT /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n" + inner, 501},
      {head + "X: " + std::string(100000, 'a') + "\r\nContent-Length: 2\r\n\r\n{}", 400},
  };
  for (const auto& [request, status] : requests) {
    const std::string answer = answer_to(server, request);
    const std::string what = request.substr(0, 150) + " -> " + answer;
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 " + std::to_string(status))) << what;
    EXPECT_EQ(answer.find("HTTP/1.1", 1), std::string::npos) << "answered twice: " << what;
    EXPECT_FALSE(answer.ends_with("waits")) << what;
    EXPECT_NE(answer.find("{\"error\":{"), std::string::npos) << what;
  }
}

TEST(Http, SlowRequestsAreCutOff) {
  const Server server({.request_time = std::chrono::milliseconds(300)});
  const int socket = connected_to(server);
  ASSERT_GT(::send(socket, "POST /v1/comp", 13, 0), 0);
  char byte = 0;
  errno = 0;
  while (::recv(socket, &byte, 1, 0) > 0) {
  }
  EXPECT_NE(errno, EAGAIN) << "the server waits for ever";
  ::close(socket);
}

TEST(Http, KeysAndHosts) {
  const Server server({.key = "secret"});
  auto client = server.client();
  EXPECT_EQ(client.Get("/health")->status, 200);
  EXPECT_EQ(client.Get("/")->status, 200);
  EXPECT_EQ(client.Get("/v1/models")->status, 401);
  EXPECT_EQ(client.Get("/metrics")->status, 401);
  EXPECT_EQ(client.Get("/v1/models", {{"Authorization", "Bearer secrez"}})->status, 401);
  EXPECT_EQ(client.Get("/v1/models", {{"Authorization", "Bearer secret"}})->status, 200);
  const Server open;
  auto other = open.client();
  EXPECT_EQ(other.Get("/v1/models", {{"Host", "evil.example"}})->status, 403);
  EXPECT_EQ(other.Get("/v1/models", {{"Host", "localhost:1"}})->status, 200);
  EXPECT_THROW(Server({.host = "0.0.0.0"}), Error);
}

TEST(Http, ModelsTokensMetricsPage) {
  Server server;
  auto client = server.client();
  const json models = json::parse(client.Get("/v1/models")->body);
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(models["data"][0]["winnow"]["policies"][0]["name"], "half");
  EXPECT_EQ(client.Get("/v1/models/tiny")->status, 200);
  EXPECT_EQ(client.Get("/v1/models/other")->status, 404);
  const json tokens = server.post("/tokenize", {{"content", "wind and corn"}, {"pieces", true}});
  std::string text;
  for (const json& piece : tokens["pieces"]) text += piece.get<std::string>();
  EXPECT_EQ(text, "wind and corn");
  server.post("/v1/chat/completions", greedy_chat("a", 3));
  const std::string metrics = client.Get("/metrics")->body;
  EXPECT_NE(metrics.find("winnow_generated_tokens_total 3\n"), std::string::npos) << metrics;
  EXPECT_NE(metrics.find("winnow_requests_total{path=\"/v1/chat/completions\",status=\"200\"} 1\n"),
            std::string::npos);
  EXPECT_NE(metrics.find("winnow_first_token_seconds_count 1\n"), std::string::npos);
  const auto page = client.Get("/");
  EXPECT_TRUE(page->get_header_value("Content-Type").starts_with("text/html"));
  EXPECT_NE(page->body.find("<title>winnow"), std::string::npos);
}

// A client that goes away in the middle: its answer is not made to the end.
TEST(Http, CancelledWithTheClient) {
  for (const bool streamed : {true, false}) {
    Server server;
    json request = greedy_chat("a", 480);
    request["stream"] = streamed;
    {
      const int socket = connected_to(server);
      const std::string body = request.dump();
      const std::string text =
          "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
          "application/json\r\nContent-Length: " +
          std::to_string(body.size()) + "\r\n\r\n" + body;
      ASSERT_EQ(::send(socket, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ::close(socket);
    }
    const auto deadline = Clock::now() + std::chrono::seconds(20);
    while (server.http().in_flight() + (server.scheduler().idle() ? 0 : 1) > 0 && Clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_TRUE(server.scheduler().idle());
  }
}

TEST(Http, ManyClients) {
  Server server({}, {.max_sequences = 4});
  const json expected = server.post("/v1/chat/completions", greedy_chat("corn", 5))["choices"];
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&] {
      for (int j = 0; j < 4; ++j) {
        if (server.post("/v1/chat/completions", greedy_chat("corn", 5))["choices"] == expected) ++right;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 64);
}

TEST(Http, DrainingFinishesWhatIsThere) {
  Server server;
  json answer;
  std::thread client([&] { answer = server.post("/v1/chat/completions", greedy_chat("a", 100)); });
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  while (server.scheduler().idle() && Clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server.http().drain();
  server.scheduler().drain();
  server.post("/v1/chat/completions", greedy_chat("a", 1), 503);
  EXPECT_EQ(server.client().Get("/health")->status, 503);
  client.join();
  EXPECT_EQ(answer["usage"]["completion_tokens"], 100);
}

}  // namespace
}  // namespace winnow
