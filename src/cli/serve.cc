// winnow serve: the OpenAI HTTP API over one model, until SIGTERM or Ctrl-C.
#include <fmt/format.h>

#include <chrono>
#include <exception>
#include <filesystem>
#include <thread>

#include "cli/command.h"
#include "cli/common.h"
#include "cli/provenance.h"
#include "cli/ranks.h"
#include "cli/shutdown_signal.h"
#include "core/data_dir.h"
#include "core/error.h"
#include "server/bearer_key.h"
#include "server/http_server.h"
#include "server/scheduler.h"
#include "server/service.h"
#include "sparsity/policy_warnings.h"

namespace winnow::cli {
namespace {

using std::chrono::milliseconds;

struct ServeOptions {
  ModelOptions model;
  std::string policy = "dense", policy_folder;
  HttpOptions http;
  SchedulerOptions scheduler;
  ServiceOptions service;
  std::string key_file, key_variable = "WINNOW_API_KEY";
  double max_body_mib = 8, prefix_cache_mib = 512, timeout_s = 600, drain_s = 30;
};

// The folder of policies that comes with winnow, where there is one.
std::string shipped_policies() {
  for (const std::string& folder : data_folders()) {
    std::error_code error;
    const auto path = std::filesystem::path(folder) / "policies";
    if (std::filesystem::is_directory(path, error)) return path.string();
  }
  return "";
}

PolicyBook read_policies(const Engine& engine, const ServeOptions& options) {
  PolicyBook policies(engine.facts(), options.policy, engine.kv_type());
  for (const std::string& warning : policy_warnings(policies.standard()))
    fmt::print(stderr, "winnow: {}\n", warning);
  const std::string folder = options.policy_folder.empty() ? shipped_policies() : options.policy_folder;
  if (!folder.empty()) policies.add_folder(folder);
  return policies;
}

// An engine that has failed stays, as /health and every answer say; the log says when it was.
void wait_for_signal(const ShutdownSignal& signals, const Engine& engine) {
  for (bool logged = false; signals.count() == 0; std::this_thread::sleep_for(milliseconds(50))) {
    if (logged) continue;
    const std::string why = engine.failure();
    logged = !why.empty();
    if (logged) fmt::print(stderr, "winnow: the engine has failed, requests are refused: {}\n", why);
  }
}

void wait_until(const std::function<bool()>& done, milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!done() && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(milliseconds(20));
}

// Takes no more requests, lets those there are finish, and ends the rest; a second signal ends them at once.
void shut_down(HttpServer& http, Scheduler& scheduler, const ShutdownSignal& signals, milliseconds limit) {
  fmt::print(stderr, "winnow: shutting down; {} requests are being answered\n", http.in_flight());
  http.drain();
  scheduler.drain();
  wait_until([&] { return (scheduler.idle() && http.in_flight() == 0) || signals.count() > 1; }, limit);
  scheduler.stop();
  constexpr milliseconds kLastWords{2000};
  wait_until([&] { return http.in_flight() == 0; }, kLastWords);
  http.stop();
}

int serve(ServeOptions options) {
  options.http.key = read_bearer_key(options.key_file, options.key_variable);
  options.http.max_body_bytes = static_cast<std::int64_t>(options.max_body_mib * (1 << 20));
  options.http.threads = static_cast<int>(options.scheduler.max_sequences + options.scheduler.max_queue + 16);
  options.scheduler.prefix_cache_bytes = static_cast<std::int64_t>(options.prefix_cache_mib * (1 << 20));
  options.scheduler.request_timeout = milliseconds(static_cast<std::int64_t>(options.timeout_s * 1000));
  const std::string& sessions = options.service.session_folder;
  if (!sessions.empty() && !std::filesystem::is_directory(sessions))
    fail(ErrorCode::kIo, "{}: is no folder to keep sessions in", sessions);
  if (!sessions.empty() && several_ranks(options.model))
    throw UsageError(
        "--session-folder: kept sessions are of one device; caches over several are not put together");
  const auto engine = open_engine(options.model);
  if (options.service.model_id.empty())
    options.service.model_id = std::filesystem::path(file_name(options.model.model)).stem().string();

  Metrics metrics;
  PolicyBook policies = read_policies(*engine, options);
  Scheduler scheduler(*engine, options.scheduler, metrics);
  Service service(*engine, std::move(policies), scheduler, options.service);
  HttpServer http(service, metrics, options.http);
  const ShutdownSignal signals;
  std::thread listener([&] { http.run(); });
  fmt::print(stderr, "winnow: {} at {}{}\n", options.service.model_id, http.url(),
             options.http.key.empty() ? "" : ", with a key");
  wait_for_signal(signals, *engine);
  shut_down(http, scheduler, signals, milliseconds(static_cast<std::int64_t>(options.drain_s * 1000)));
  listener.join();
  if (const std::string why = engine->failure(); !why.empty())
    fail(ErrorCode::kUnsupported, "the server had lost its engine: {}", why);
  return 0;
}

constexpr const char* kFooter = R"(Examples:
  winnow serve -m smollm2-135m
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"messages": [{"role": "user", "content": "Who are you?"}], "winnow": {"policy": "keep08"}}'
  WINNOW_API_KEY=... winnow serve -m smollm2-135m --host 0.0.0.0

The page at / is for people. See docs/server.md for the API.)";

void add_limits(CLI::App& sub, ServeOptions& options) {
  sub.add_option("--parallel", options.scheduler.max_sequences, "Answers decoded at once")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  sub.add_option("--queue", options.scheduler.max_queue, "Requests that may wait; more are refused with 429")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  sub.add_option("--max-body-mib", options.max_body_mib, "Largest request")
      ->check(CLI::Range(0.001, 1024.0))
      ->capture_default_str();
  sub.add_option("--max-prompt-tokens", options.service.max_prompt_tokens, "Longest prompt; 0: the context's")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  sub.add_option("--max-tokens", options.service.default_max_tokens,
                 "Most tokens of a chat answer whose request names no number")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  sub.add_option("--timeout", options.timeout_s, "Seconds a request may take in all")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  sub.add_option("--drain", options.drain_s, "Seconds that requests get to finish after SIGTERM")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  sub.add_option("--prefix-cache-mib", options.prefix_cache_mib,
                 "Memory for prompts that begin the same; 0: none")
      ->check(CLI::Range(0.0, 1048576.0))
      ->capture_default_str();
}

}  // namespace

void add_serve(CLI::App& app, Command& command) {
  auto options = std::make_shared<ServeOptions>();
  CLI::App* sub =
      app.add_subcommand("serve", "Serve a model over HTTP, as OpenAI's API does, and a page to try it");
  add_model_options(*sub, options->model);
  add_kv_option(*sub, options->model);
  add_rank_options(*sub, options->model);
  sub->add_option("--policy", options->policy,
                  "What to leave out where a request does not say; as in winnow run --help")
      ->capture_default_str();
  sub->add_option(
      "--policy-folder", options->policy_folder,
      "Policy files that requests may name and max_kl chooses from (default: those that come with winnow)");
  sub->add_option("--model-name", options->service.model_id,
                  "What clients call the model (default: its file's name)");
  sub->add_option("--host", options->http.host, "Address to listen on; beyond this machine only with a key")
      ->capture_default_str();
  sub->add_option("--port", options->http.port, "0: any that is free")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  sub->add_option("--api-key-file", options->key_file,
                  "Clients must send the key in this file (Authorization: Bearer KEY)");
  sub->add_option("--api-key-env", options->key_variable,
                  "Without a file: the environment variable that holds the key")
      ->capture_default_str();
  sub->add_option("--session-folder", options->service.session_folder,
                  "Keep the caches of prompts here for requests that name a session");
  add_limits(*sub, *options);
  sub->add_flag("--access-log", options->http.access_log, "A line a request on stderr, without what it says");
  sub->footer(kFooter);
  sub->callback([options, &command] { command = [options] { return serve(*options); }; });
}

}  // namespace winnow::cli
