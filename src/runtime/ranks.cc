#include "runtime/ranks.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.h"
#include "core/error.h"

namespace winnow {
namespace {

using nlohmann::json;

// Commands travel as CBOR, tokens in them as bytes.
json to_binary(std::span<const TokenId> tokens) {
  const auto bytes = std::as_bytes(tokens);
  const auto* first = reinterpret_cast<const std::uint8_t*>(bytes.data());
  return json::binary(std::vector<std::uint8_t>(first, first + bytes.size()));
}

std::vector<TokenId> from_binary(const json& tokens) {
  const auto& bytes = tokens.get_binary();
  std::vector<TokenId> out(bytes.size() / sizeof(TokenId));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// Only what the ranks must agree on.
json to_json(const EngineOptions& options) {
  return {{"model", options.model},
          {"random_weights", options.random_weights},
          {"seed", options.seed},
          {"device", options.device},
          {"devices", options.devices},
          {"split", static_cast<int>(options.split)},
          {"precision", static_cast<int>(options.precision)},
          {"threads", options.threads}};
}

EngineOptions options_from(const json& command) {
  EngineOptions options;
  options.model = command.at("model");
  options.random_weights = command.at("random_weights");
  options.seed = command.at("seed");
  options.device = command.at("device");
  options.devices = command.at("devices").get<std::vector<std::string>>();
  options.split = static_cast<Split>(command.at("split").get<int>());
  options.precision = static_cast<Precision>(command.at("precision").get<int>());
  options.threads = command.at("threads");
  return options;
}

// Whatever a caller on rank 0 wants to be told, the others must take part in. `cancelled`: as
// PrefillOptions'.
PrefillOptions options_of(const json& command, std::function<bool()> cancelled) {
  PrefillOptions options;
  options.reserve_tokens = command.at("reserve");
  options.all_logits_from = command.at("from");
  if (command.at("all_logits")) options.all_logits = [](std::int64_t, const MatrixView&) {};
  if (command.at("cancellable")) options.cancelled = std::move(cancelled);
  if (command.at("scored")) {
    options.stage_scores = [](std::int64_t, std::span<const std::int32_t>, std::span<float>) {};
  }
  return options;
}

void send_to_followers(Communicator& ranks, const json& command) {
  std::vector<std::uint8_t> bytes = json::to_cbor(command);
  ranks.share(bytes);
}

class Follower {
 public:
  explicit Follower(std::shared_ptr<Communicator> ranks) : ranks_(std::move(ranks)) {}

  void run() { obey_until("leave"); }

 private:
  json obey_until(const char* last) {
    for (;;) {
      std::vector<std::uint8_t> bytes;
      ranks_->share(bytes);
      json command = json::from_cbor(bytes);
      for (const std::int64_t session : command.at("dropped")) sessions_.erase(session);
      if (command.at("do") == last) return command;
      obey(command);
    }
  }

  void obey(const json& command) {
    const std::string what = command.at("do");
    if (what == "open") {
      EngineOptions options = options_from(command);
      options.ranks = ranks_;
      engine_ = Engine::open(options);
    } else if (what == "close") {
      sessions_.clear();
      engine_.reset();
    } else if (what == "session") {
      sessions_.emplace(command.at("session"), std::make_unique<Session>(*engine_));
    } else if (what == "copy") {
      session(command.at("from")).copy_to(session(command.at("to")));
    } else if (what == "cut") {
      session(command.at("session")).cut_to(command.at("tokens"));
    } else if (what == "prefill") {
      const Policy policy = policy_from_json(command.at("policy"), "rank 0");
      session(command.at("session"))
          .prefill(from_binary(command.at("tokens")), policy, options_of(command, goes_on()));
    } else if (what == "prefill_batch") {
      prefill_batch(command);
    } else if (what == "decode") {
      std::vector<Session*> sessions;
      for (const std::int64_t number : command.at("sessions")) sessions.push_back(&session(number));
      decode_batch(sessions, from_binary(command.at("tokens")));
    } else {
      check(false, "follow: a command of Leader's");
    }
  }

  void prefill_batch(const json& command) {
    const std::vector<TokenId> tokens = from_binary(command.at("tokens"));
    std::vector<Reading> readings;
    std::size_t first = 0;
    for (const json& part : command.at("readings")) {
      const std::size_t count = part.at("tokens");
      readings.push_back({.session = &session(part.at("session")),
                          .tokens = std::span(tokens).subspan(first, count),
                          .reserve_tokens = part.at("reserve")});
      first += count;
    }
    winnow::prefill_batch(readings, command.at("cancellable") ? goes_on() : std::function<bool()>());
  }

  // What cancels a prompt here: between two layers rank 0 may have other sessions decode.
  std::function<bool()> goes_on() {
    return [this] { return obey_until("go_on").at("stop").get<bool>(); };
  }

  Session& session(std::int64_t number) const { return *sessions_.at(number); }

  std::shared_ptr<Communicator> ranks_;
  std::unique_ptr<Engine> engine_;
  std::map<std::int64_t, std::unique_ptr<Session>> sessions_;
};

}  // namespace

Leader::Leader(Communicator& ranks, const EngineOptions& options) : ranks_(ranks) {
  json command = to_json(options);
  command["do"] = "open";
  send(command);
}

Leader::~Leader() {
  try {
    send({{"do", "close"}});
  } catch (const std::exception&) {  // the ranks have stopped, and whoever waited for them was told why
  }
}

void Leader::send(const json& command) {
  json full = command;
  {
    const std::lock_guard lock(mutex_);
    full["dropped"] = std::exchange(dropped_, std::vector<std::int64_t>());
  }
  send_to_followers(ranks_, full);
}

std::int64_t Leader::make_session() {
  const std::int64_t session = sessions_made_++;
  send({{"do", "session"}, {"session", session}});
  return session;
}

void Leader::drop_session(std::int64_t session) noexcept {
  const std::lock_guard lock(mutex_);
  dropped_.push_back(session);
}

void Leader::copy_session(std::int64_t from, std::int64_t to) {
  send({{"do", "copy"}, {"from", from}, {"to", to}});
}

void Leader::cut_session(std::int64_t session, std::int64_t tokens) {
  send({{"do", "cut"}, {"session", session}, {"tokens", tokens}});
}

void Leader::prefill(std::int64_t session, std::span<const TokenId> tokens, const Policy& policy,
                     const PrefillOptions& options) {
  send({{"do", "prefill"},
        {"session", session},
        {"tokens", to_binary(tokens)},
        {"policy", policy_to_json(policy)},
        {"reserve", options.reserve_tokens},
        {"from", options.all_logits_from},
        {"all_logits", static_cast<bool>(options.all_logits)},
        {"cancellable", static_cast<bool>(options.cancelled)},
        {"scored", static_cast<bool>(options.stage_scores)}});
}

void Leader::prefill_batch(std::span<const std::int64_t> sessions, std::span<const Reading> readings,
                           bool cancellable) {
  std::vector<TokenId> tokens;
  json parts = json::array();
  for (std::size_t i = 0; i < readings.size(); ++i) {
    const Reading& reading = readings[i];
    tokens.insert(tokens.end(), reading.tokens.begin(), reading.tokens.end());
    parts.push_back(
        {{"session", sessions[i]}, {"tokens", reading.tokens.size()}, {"reserve", reading.reserve_tokens}});
  }
  send({{"do", "prefill_batch"},
        {"readings", std::move(parts)},
        {"tokens", to_binary(tokens)},
        {"cancellable", cancellable}});
}

void Leader::go_on(bool stop) { send({{"do", "go_on"}, {"stop", stop}}); }

void Leader::decode(std::span<const std::int64_t> sessions, std::span<const TokenId> tokens) {
  send({{"do", "decode"},
        {"sessions", std::vector<std::int64_t>(sessions.begin(), sessions.end())},
        {"tokens", to_binary(tokens)}});
}

void follow(const std::shared_ptr<Communicator>& ranks) {
  Follower follower(ranks);  // destroyed after stop(): its engine's end waits for the other ranks
  try {
    follower.run();
  } catch (const std::exception& error) {
    ranks->stop(fmt::format("rank {}: {}", ranks->rank(), error.what()));
    throw;
  }
}

void dismiss_followers(Communicator& ranks) noexcept {
  try {
    send_to_followers(ranks, {{"do", "leave"}, {"dropped", json::array()}});
  } catch (const std::exception&) {  // they have stopped already
  }
}

}  // namespace winnow
