// winnow serve over two CPU ranks, one of which is stopped, killed or short of memory.
#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "cli/running_program.h"

namespace winnow::cli_test {
namespace {

struct Answer {
  int status = 0;
  json body;
};

// A request is sent by the constructor and answered by answer().
class Exchange {
 public:
  Exchange(int port, const std::string& method, const std::string& path, const std::string& body = "") {
    socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const std::string text = method + " " + path +
                             " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                             "Content-Type: application/json\r\nContent-Length: " +
                             std::to_string(body.size()) + "\r\n\r\n" + body;
    EXPECT_EQ(::send(socket_, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  ~Exchange() { ::close(socket_); }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  Answer answer() const {
    std::string text;
    char block[4096];
    for (ssize_t count; (count = ::recv(socket_, block, sizeof block, 0)) > 0;) text.append(block, count);
    const std::size_t space = text.find(' '), end = text.find("\r\n\r\n");
    if (space == text.npos || end == text.npos) return {};
    return {std::stoi(text.substr(space + 1)), json::parse(text.substr(end + 4), nullptr, false)};
  }

 private:
  int socket_;
};

class ServeOverRanks : public testing::Test {
 protected:
  void SetUp() override {
    const std::string address = "http://127.0.0.1:";
    ASSERT_TRUE(server_.runs_until([&] { return server_.errors().find(address) != std::string::npos; }))
        << server_.errors();
    const std::string log = server_.errors();
    port_ = std::stoi(log.substr(log.find(address) + address.size()));
    const std::vector<pid_t> ranks = server_.children();
    ASSERT_EQ(ranks.size(), 1u);
    follower_ = ranks[0];
  }

  Answer get(const std::string& path) const { return Exchange(port_, "GET", path).answer(); }
  Exchange ask(int prompt_tokens) const {
    const json body = {{"prompt", std::vector<int>(prompt_tokens, 7)}, {"max_tokens", 4}};
    return {port_, "POST", "/v1/completions", body.dump()};
  }
  void expect_failed(const Answer& answer) const {
    EXPECT_GE(answer.status, 500) << answer.body;
    EXPECT_NE(answer.body.dump().find(killed_), std::string::npos) << answer.body;
  }

  // A server that lost a rank has not done what it was started for.
  void expect_end_with_reason() {
    server_.send(SIGTERM);
    EXPECT_EQ(server_.wait().code, 1) << server_.errors();
    const std::string log = server_.errors(), last = log.substr(log.rfind("winnow: "));
    EXPECT_NE(last.find(killed_), std::string::npos) << log;
  }

  RunningProgram server_{on_tiny({"serve"}, {"--port", "0", "--devices", "cpu,cpu", "--precision", "f32"})};
  int port_ = 0;
  pid_t follower_ = 0;
  const std::string killed_ = "rank 1's process was ended by signal 9";
};

TEST_F(ServeOverRanks, ARequestUnderWayEndsWhenARankDies) {
  EXPECT_EQ(ask(20).answer().status, 200);
  ::kill(follower_, SIGSTOP);  // the request waits for this rank
  const Exchange waiting = ask(20);
  ::kill(follower_, SIGKILL);
  expect_failed(waiting.answer());
  expect_failed(ask(20).answer());
  expect_end_with_reason();
}

// What goes to all processes of the group is rank 0's to follow: answers under way need the others.
TEST_F(ServeOverRanks, SignalsToAllLeaveTheOthersAtWork) {
  for (const int signal : {SIGINT, SIGTERM}) ::kill(follower_, signal);
  EXPECT_EQ(ask(20).answer().status, 200);
  server_.send(SIGTERM);
  EXPECT_EQ(server_.wait().code, 0) << server_.errors();
}

TEST_F(ServeOverRanks, HealthSaysThatARankHasDied) {
  EXPECT_EQ(get("/health").status, 200);
  ::kill(follower_, SIGKILL);
  Answer health;
  EXPECT_TRUE(server_.runs_until([&] {  // until the system has taken the process away
    health = get("/health");
    return health.status != 200;
  }));
  EXPECT_EQ(health.status, 503);
  EXPECT_EQ(health.body["status"], "failed");
  EXPECT_NE(health.body.value("reason", "").find(killed_), std::string::npos) << health.body;
  const Answer refused = ask(20).answer();
  expect_failed(refused);
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.body["error"]["code"], "engine_failed");
  expect_end_with_reason();
}

// Before anybody has asked for anything.
TEST_F(ServeOverRanks, TheLogSaysThatARankHasDied) {
  ::kill(follower_, SIGKILL);
  EXPECT_TRUE(server_.runs_until([&] {
    return server_.errors().find("the engine has failed, requests are refused: " + killed_) !=
           std::string::npos;
  }));
  expect_end_with_reason();
}

TEST_F(ServeOverRanks, APromptTooLongForOneRanksMemoryFailsAlone) {
  EXPECT_EQ(ask(20).answer().status, 200);
  rlimit before{};
  ASSERT_EQ(::prlimit(follower_, RLIMIT_AS, nullptr, &before), 0);
  const auto pages = std::stoull(read_file("/proc/" + std::to_string(follower_) + "/statm"));
  rlimit little = before;
  little.rlim_cur = pages * ::sysconf(_SC_PAGESIZE) + (256 << 10);
  ASSERT_EQ(::prlimit(follower_, RLIMIT_AS, &little, nullptr), 0);
  const Answer refused = ask(400).answer();
  EXPECT_EQ(refused.status, 503) << refused.body;
  EXPECT_EQ(refused.body["error"]["code"], "out_of_memory");
  EXPECT_NE(refused.body.dump().find("rank 1: a prompt of 400 tokens"), std::string::npos) << refused.body;
  ASSERT_EQ(::prlimit(follower_, RLIMIT_AS, &before, nullptr), 0);
  EXPECT_EQ(ask(400).answer().status, 200);
  EXPECT_EQ(get("/health").status, 200);
}

}  // namespace
}  // namespace winnow::cli_test
