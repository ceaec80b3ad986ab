// The server on a socket, by real requests on the loopback address.
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/socket.h>

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

TEST(Http, SlowRequestsAreCutOff) {
  const Server server({.request_time = std::chrono::milliseconds(300)});
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(const_cast<Server&>(server).http().port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_GT(::send(socket, "POST /v1/comp", 13, 0), 0);
  timeval limit{.tv_sec = 20, .tv_usec = 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
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
      const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<std::uint16_t>(server.http().port()));
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      ASSERT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
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
