// winnow run without a prompt: a conversation. Every turn is read on top of what the session has cached.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>

#include "cli/interrupt.h"
#include "cli/run.h"
#include "core/error.h"

namespace winnow::cli {
namespace {

// Lines from stdin by read(2), so that Ctrl-C can end the wait for one. The request is looked for ten times a
// second: a signal may arrive just before the wait, or on one of the threads that compute, and neither would
// interrupt it.
class LineReader {
 public:
  enum class Result { kLine, kEnd, kInterrupted };

  Result next(std::string& line, const Interrupt& interrupt) {
    for (;;) {
      const std::size_t newline = buffer_.find('\n');
      if (newline != std::string::npos) {
        line = buffer_.substr(0, newline);
        buffer_.erase(0, newline + 1);
        return Result::kLine;
      }
      if (interrupt.requested()) {
        buffer_.clear();
        return Result::kInterrupted;
      }
      constexpr int kWaitMs = 100;
      pollfd input{STDIN_FILENO, POLLIN, 0};
      if (::poll(&input, 1, kWaitMs) <= 0) continue;  // nothing yet, or a signal
      std::array<char, 4096> block;
      const ssize_t count = ::read(STDIN_FILENO, block.data(), block.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return Result::kEnd;
      buffer_.append(block.data(), static_cast<std::size_t>(count));
    }
  }

 private:
  std::string buffer_;
};

class Conversation {
 public:
  Conversation(const Engine& engine, const RunOptions& options, const Policy& policy)
      : engine_(engine), options_(options), policy_(policy), sampler_(options.sampling) {
    restart();
  }

  void restart() {
    session_ = std::make_unique<Session>(engine_);
    unread_.clear();
  }

  // Answers `message` on stdout. Error leaves the conversation as it was.
  Answer answer(const std::string& message, const Interrupt& interrupt) {
    AnswerOptions answering{.tokenizer = engine_.tokenizer(), .policy = policy_};
    answering.begins_text = chat();
    answering.max_new_tokens = options_.max_new_tokens;
    answering.stop_strings = options_.stop_strings;
    answering.progress = options_.model.progress_style();
    answering.cancelled = [&] { return interrupt.requested(); };
    answering.on_text = [](const std::string& part) {
      fmt::print("{}", part);
      std::fflush(stdout);
    };
    const Answer result =
        answer_prompt(*session_, sampler_, tokenise([&] { return turn_tokens(message); }), answering);
    if (result.prefilled) note_unread(result.generation);
    return result;
  }

 private:
  bool chat() const { return engine_.tokenizer().has_chat_template(); }

  std::vector<TokenId> turn_tokens(const std::string& message) const {
    const Tokenizer& tokenizer = engine_.tokenizer();
    std::vector<TokenId> tokens = unread_;
    std::vector<TokenId> turn;
    if (!chat()) {
      turn = tokenizer.encode(message, options_.parse_special);
    } else if (session_->tokens() == 0) {
      turn = tokenizer.encode_chat({{"user", message}}, /*add_generation_prompt=*/true);
    } else {
      turn = later_turn(message);
    }
    tokens.insert(tokens.end(), turn.begin(), turn.end());
    return tokens;
  }

  // The tokens a further message adds: what the template appends to a conversation that ends with an answer.
  std::vector<TokenId> later_turn(const std::string& message) const {
    const Tokenizer& tokenizer = engine_.tokenizer();
    const std::vector<ChatMessage> before = placeholder();
    std::vector<ChatMessage> after = before;
    after.push_back({"user", message});
    const std::vector<TokenId> prefix = tokenizer.encode_chat(before, /*add_generation_prompt=*/false);
    const std::vector<TokenId> whole = tokenizer.encode_chat(after, /*add_generation_prompt=*/true);
    if (whole.size() < prefix.size() || !std::equal(prefix.begin(), prefix.end(), whole.begin())) {
      fail(ErrorCode::kUnsupported,
           "this model's chat template rewrites earlier turns: give each prompt with -p");
    }
    return {whole.begin() + static_cast<std::ptrdiff_t>(prefix.size()), whole.end()};
  }

  // After an answer: its last token if the session has not read it, then what closes a turn in the template
  // (the stop token is not read when it is sampled).
  void note_unread(const Generation& generation) {
    unread_.clear();
    if (generation.last_token_pending) unread_.push_back(generation.tokens.back());
    if (!chat()) return;
    const std::vector<TokenId> closed =
        engine_.tokenizer().encode_chat(placeholder(), /*add_generation_prompt=*/false);
    auto end = closed.end();
    while (end != closed.begin() && !engine_.tokenizer().is_control(*(end - 1))) --end;
    if (end != closed.begin()) unread_.insert(unread_.end(), end - 1, closed.end());
  }

  static std::vector<ChatMessage> placeholder() { return {{"user", "a"}, {"assistant", "b"}}; }

  const Engine& engine_;
  const RunOptions& options_;
  const Policy& policy_;
  Sampler sampler_;
  std::unique_ptr<Session> session_;
  std::vector<TokenId> unread_;  // tokens that belong before the next message
};

}  // namespace

int converse(const Engine& engine, const RunOptions& options, const Policy& policy, PruneLog& log) {
  fmt::print(stderr, "{}, policy {}. Ctrl-C stops an answer; /new starts over; /exit or Ctrl-D ends.\n",
             engine.arch().name, policy.name);
  Conversation conversation(engine, options, policy);
  LineReader lines;
  Interrupt interrupt;
  for (std::string line;;) {
    interrupt.clear();
    fmt::print(stderr, "> ");
    std::fflush(stderr);
    const LineReader::Result read = lines.next(line, interrupt);
    interrupt.clear();
    if (read == LineReader::Result::kEnd || line == "/exit") break;
    if (read == LineReader::Result::kInterrupted) {
      fmt::print(stderr, "\n(/exit or Ctrl-D ends)\n");
      continue;
    }
    if (line == "/new") conversation.restart();
    if (line.empty() || line == "/new") continue;
    try {
      const Answer answer = conversation.answer(line, interrupt);
      log.add(answer.stages);
      fmt::print("\n");
      std::fflush(stdout);
      fmt::print(stderr, "({})\n", summary(answer));
    } catch (const Error& error) {
      // A message too long for what is left of the context must not cost the conversation.
      fmt::print(stderr, "winnow: {}\n", error.what());
    }
  }
  fmt::print(stderr, "\n");
  return 0;
}

}  // namespace winnow::cli
