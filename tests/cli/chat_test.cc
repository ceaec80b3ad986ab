// The conversation at a terminal: the program runs on a pseudo-terminal.
#include <poll.h>
#include <pty.h>
#include <termios.h>

#include <chrono>
#include <csignal>
#include <regex>

#include "cli/program.h"

namespace winnow::cli_test {
namespace {

class Terminal {
 public:
  explicit Terminal(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), WINNOW_PROGRAM);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    termios quiet = {};
    quiet.c_iflag = ICRNL;
    quiet.c_lflag = ISIG | ICANON;  // no echo: what is read back is the program's
    quiet.c_cc[VINTR] = 3;
    quiet.c_cc[VEOF] = 4;
    quiet.c_cc[VMIN] = 1;
    child_ = ::forkpty(&fd_, nullptr, &quiet, nullptr);
    if (child_ == 0) {
      ::execv(WINNOW_PROGRAM, argv.data());
      ::_exit(127);
    }
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    if (!ended_) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
    ::close(fd_);
  }

  void type(const std::string& text) {
    EXPECT_EQ(::write(fd_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  // What the program wrote up to and including `end`; fails after a minute.
  std::string read_until(const std::string& end) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    for (;;) {
      const std::size_t found = pending_.find(end);
      if (found != std::string::npos) {
        const std::string text = pending_.substr(0, found + end.size());
        pending_.erase(0, found + end.size());
        return text;
      }
      if (std::chrono::steady_clock::now() > deadline || !read_some()) {
        ADD_FAILURE() << "no \"" << end << "\" in: " << pending_;
        return "";
      }
    }
  }

  int exit_code() {
    while (read_some()) {
    }
    int status = 0;
    ::waitpid(child_, &status, 0);
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  bool read_some() {
    pollfd waiting{fd_, POLLIN, 0};
    if (::poll(&waiting, 1, 60'000) <= 0) return false;
    char block[4096];
    const ssize_t count = ::read(fd_, block, sizeof(block));
    if (count <= 0) return false;
    pending_.append(block, static_cast<std::size_t>(count));
    return true;
  }

  int fd_ = -1;
  pid_t child_ = -1;
  bool ended_ = false;
  std::string pending_;
};

int prompt_tokens(const std::string& output) {
  std::smatch match;
  return std::regex_search(output, match, std::regex("\\((\\d+) prompt tokens")) ? std::stoi(match[1]) : -1;
}

TEST(Chat, LaterTurnsReadOnlyWhatIsNew) {
  Terminal terminal(on_tiny({"run"}, {"-n", "3"}));
  terminal.read_until("> ");
  terminal.type("corn in the wind\n");
  const int first = prompt_tokens(terminal.read_until("MB)"));
  terminal.read_until("> ");
  terminal.type("corn in the wind\n");
  const int second = prompt_tokens(terminal.read_until("MB)"));
  const json alone = json::parse(
      run_program(on_tiny({"run", "--json", "--chat"}, {"-n", "3", "-p", "corn in the wind"})).out);
  EXPECT_EQ(first, alone["prompt_tokens"]);
  ASSERT_EQ(alone["finish_reason"], "length");
  EXPECT_EQ(second, first + 3);  // the answer's last token, and "<|im_end|>\n" that closes it
  terminal.read_until("> ");
  terminal.type("/new\n");
  terminal.read_until("> ");
  terminal.type("corn in the wind\n");
  EXPECT_EQ(prompt_tokens(terminal.read_until("MB)")), first);
  terminal.read_until("> ");
  terminal.type("/exit\n");
  EXPECT_EQ(terminal.exit_code(), 0);
}

TEST(Chat, InterruptAtThePromptIsNoExit) {
  Terminal terminal(on_tiny({"run"}, {"-n", "2"}));
  terminal.read_until("> ");
  terminal.type("\x03");
  terminal.read_until("ends)");
  terminal.read_until("> ");
  terminal.type("corn\n");
  terminal.read_until("MB)");
  terminal.read_until("> ");
  terminal.type("\x04");
  EXPECT_EQ(terminal.exit_code(), 0);
}

TEST(Chat, MessageTooLongDoesNotEndTheConversation) {
  Terminal terminal(on_tiny({"run"}, {"-n", "2"}));
  terminal.read_until("> ");
  terminal.type(long_text(500) + "\n");
  terminal.read_until("context is 512");
  terminal.read_until("> ");
  terminal.type("corn\n");
  terminal.read_until("MB)");
  terminal.type("/exit\n");
  EXPECT_EQ(terminal.exit_code(), 0);
}

}  // namespace
}  // namespace winnow::cli_test
