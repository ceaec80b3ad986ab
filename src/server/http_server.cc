#include "server/http_server.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <strings.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "core/elapsed.h"
#include "core/error.h"
#include "server/api_error.h"
#include "server/bearer_key.h"
#include "server/http_stream.h"
#include "server/page.h"

namespace winnow {
namespace {

using httplib::Request;
using httplib::Response;
using nlohmann::json;

constexpr const char* kJson = "application/json";
constexpr std::chrono::milliseconds kKeepAlive{30000};
// How often a handler that waits for the inference thread looks whether its client is still there.
constexpr std::chrono::milliseconds kLook{50};

// The connection this thread serves.
struct Connection {
  SocketStream* stream = nullptr;
  Clock::time_point began{};
  std::optional<ApiError> refused;  // before the body was read
  bool close = false;               // after this request
};
thread_local Connection connection;

void answer_json(Response& response, int status, const json& body) {
  response.status = status;
  response.set_content(dump(body) + "\n", kJson);
}

void answer_error(Response& response, const ApiError& error) {
  if (error.retry_after_s) response.set_header("Retry-After", std::to_string(*error.retry_after_s));
  if (error.status() == 401) response.set_header("WWW-Authenticate", "Bearer");
  answer_json(response, error.status(), error.body());
}

// What cpp-httplib refuses itself comes without a body.
ApiError plain_error(int status) {
  switch (status) {
    case 404: return {404, "", "not_found", "there is nothing at this path"};
    case 413: return {413, "", "body_too_large", "the request is too large"};
    case 414: return {414, "", "", "the URL is too long"};
    default:
      return {status, "", "", status < 500 ? "the request cannot be read as HTTP" : "the server failed"};
  }
}

constexpr const char* kReadPaths[] = {"/", "/health", "/metrics", "/v1/models"};
constexpr const char* kModelPrefix = "/v1/models/";  // of a name
constexpr const char* kAskedPaths[] = {"/tokenize", "/v1/completions", "/v1/chat/completions"};

bool is_one_of(std::span<const char* const> paths, const std::string& path) {
  return std::find(paths.begin(), paths.end(), path) != paths.end();
}

// Paths as metrics call them: known ones only.
std::string metrics_path(const std::string& path) {
  return is_one_of(kReadPaths, path) || is_one_of(kAskedPaths, path) ? path : "other";
}

// A path that is not there, or not in the way it was asked for.
void answer_not_found(const Request& request, Response& response) {
  const std::string& path = request.path;
  const bool read = request.method == "GET" || request.method == "HEAD";
  const bool readable = is_one_of(kReadPaths, path) || path.starts_with(kModelPrefix);
  const bool askable = is_one_of(kAskedPaths, path);
  if (!askable && (read || !readable)) return answer_error(response, plain_error(404));
  const char* allowed = askable ? "POST" : "GET";
  response.set_header("Allow", allowed);
  answer_error(response, {405, "", "method_not_allowed", fmt::format("{} takes {} only", path, allowed)});
}

// Why nobody can say where this request ends (RFC 9112, 6.3): what follows would be taken for the next one,
// or waited for in vain.
std::optional<ApiError> length_fault(const Request& request) {
  const std::size_t lengths = request.get_header_value_count("Content-Length");
  const std::size_t codings = request.get_header_value_count("Transfer-Encoding");
  if (lengths + codings > 1) return ApiError(400, "", "", "the request says more than once how long it is");
  if (codings == 1 && strcasecmp(request.get_header_value("Transfer-Encoding").c_str(), "chunked") != 0)
    return ApiError(501, "", "unknown_transfer_encoding", "no Transfer-Encoding but chunked is taken");
  if (request.get_header_value("Content-Length").find_first_not_of("0123456789") != std::string::npos)
    return ApiError(400, "", "", "the Content-Length is no number");
  if (request.method == "POST" && lengths + codings == 0)
    return ApiError(411, "", "length_required", "the request has no Content-Length");
  return std::nullopt;
}

bool has_body(const Request& request) {
  return request.has_header("Transfer-Encoding") ||
         request.get_header_value<std::uint64_t>("Content-Length") > 0;
}

// The answers of one job as server-sent events.
class EventStream {
 public:
  EventStream(std::unique_ptr<Answering> answering, JobEvent first) : answering_(std::move(answering)) {
    take(first);
  }

  // Waits for what comes next and sends it. False when the client is gone.
  bool send(httplib::DataSink& sink) {
    if (pending_.empty() && !finished_) {
      auto event = answering_->job().wait(kLook);
      if (!event) return !connection.stream->client_gone();
      while (event) {
        take(*event);
        event = finished_ ? std::nullopt : answering_->job().wait(std::chrono::milliseconds(0));
      }
    }
    const std::string text = std::exchange(pending_, "");
    if (!text.empty() && !sink.write(text.data(), text.size())) return false;
    if (finished_) sink.done();
    return true;
  }

 private:
  void take(const JobEvent& event) {
    if (const auto* error = std::get_if<ApiError>(&event)) {
      add(error->body());
    } else {
      for (const json& chunk : answering_->format().take(event)) add(chunk);
    }
    finished_ = std::holds_alternative<ApiError>(event) || std::holds_alternative<AnswerEnd>(event);
    if (finished_) pending_ += "data: [DONE]\n\n";
  }
  void add(const json& chunk) { pending_ += "data: " + dump(chunk) + "\n\n"; }

  std::unique_ptr<Answering> answering_;
  std::string pending_;
  bool finished_ = false;
};

// The next event. Throws what the job failed with; nothing when the client is gone.
std::optional<JobEvent> next_event(Answering& answering) {
  for (;;) {
    if (auto event = answering.job().wait(kLook)) {
      if (auto* error = std::get_if<ApiError>(&*event)) throw *error;
      return event;
    }
    if (connection.stream->client_gone()) return std::nullopt;
  }
}

void send_answer(std::unique_ptr<Answering> answering, Response& response) {
  constexpr int kClientGone = 499;  // as nginx calls it; nobody reads it but the log
  std::optional<JobEvent> event = next_event(*answering);
  if (event && answering->request().stream) {
    response.set_header("Cache-Control", "no-store");
    auto stream = std::make_shared<EventStream>(std::move(answering), std::move(*event));
    response.set_chunked_content_provider(
        "text/event-stream",
        [stream](std::size_t /*offset*/, httplib::DataSink& sink) { return stream->send(sink); });
    return;
  }
  while (event) {
    answering->format().take(*event);
    if (std::holds_alternative<AnswerEnd>(*event))
      return answer_json(response, 200, answering->format().whole());
    event = next_event(*answering);
  }
  response.status = kClientGone;
}

}  // namespace

class HttpServer::Impl : private httplib::Server {
 public:
  Impl(Service& service, Metrics& metrics, const HttpOptions& options)
      : service_(service), metrics_(metrics), options_(options), local_(is_loopback(options.host)) {
    if (!local_ && options_.key.empty()) {
      fail(ErrorCode::kBadArgument,
           "--host {}: other machines reach this address: give a key (--api-key-file or WINNOW_API_KEY)",
           options_.host);
    }
    limits_.request_bytes = options_.max_body_bytes + (64 << 10);
    limits_.request_time = options_.request_time;
    set_payload_max_length(static_cast<std::size_t>(options_.max_body_bytes));
    new_task_queue = [this] { return new httplib::ThreadPool(static_cast<std::size_t>(options_.threads)); };
    add_routes();
    add_handlers();
    bind();
  }

  int port() const { return port_; }
  const HttpOptions& options() const { return options_; }
  void run() { listen_after_bind(); }
  void drain() { draining_ = true; }
  std::int64_t in_flight() const { return in_flight_; }
  void stop() { Server::stop(); }

 private:
  void bind() {
    set_socket_options([](socket_t socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    port_ = options_.port;
    const bool bound = options_.port == 0 ? (port_ = bind_to_any_port(options_.host)) > 0
                                          : bind_to_port(options_.host, options_.port);
    if (!bound)
      fail(ErrorCode::kIo, "{}:{}: cannot listen there: is it in use?", options_.host, options_.port);
    constexpr int kBacklog = 511;  // cpp-httplib's own is 5
    ::listen(svr_sock_, kBacklog);
  }

  void add_routes() {
    Get("/", [](const Request&, Response& response) {
      response.set_header("Content-Security-Policy",
                          "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                          "connect-src 'self'; img-src data:");
      response.set_content(std::string(kPage), "text/html; charset=utf-8");
    });
    Get("/health", [this](const Request&, Response& response) {
      if (const std::string why = service_.failure(); !why.empty())
        return answer_json(response, 503, {{"status", "failed"}, {"reason", why}});
      answer_json(response, draining_ ? 503 : 200, {{"status", draining_ ? "draining" : "ok"}});
    });
    Get("/metrics", [this](const Request&, Response& response) {
      response.set_content(metrics_.text(), "text/plain; version=0.0.4");
    });
    Get("/v1/models",
        [this](const Request&, Response& response) { answer_json(response, 200, service_.models()); });
    Get("/v1/models/(.+)", [this](const Request& request, Response& response) {
      answer_json(response, 200, service_.model(request.matches[1]));
    });
    Post("/tokenize", [this](const Request& request, Response& response) {
      answer_json(response, 200, service_.tokenize(request.body));
    });
    Post("/v1/chat/completions", [this](const Request& request, Response& response) {
      send_answer(service_.chat(request.body), response);
    });
    Post("/v1/completions", [this](const Request& request, Response& response) {
      send_answer(service_.complete(request.body), response);
    });
  }

  void add_handlers() {
    set_default_headers({{"X-Content-Type-Options", "nosniff"}});
    set_pre_routing_handler([](const Request&, Response& response) {
      if (!connection.refused) return HandlerResponse::Unhandled;
      answer_error(response, *connection.refused);
      return HandlerResponse::Handled;
    });
    set_exception_handler([](const Request&, Response& response, std::exception_ptr thrown) {
      try {
        std::rethrow_exception(std::move(thrown));
      } catch (const ApiError& error) {
        answer_error(response, error);
      } catch (const winnow::Error& error) {
        answer_error(response, to_api_error(error));
      } catch (const std::exception& error) {
        answer_error(response, {500, "", "", fmt::format("unexpected: {}", error.what())});
      }
    });
    set_error_handler([](const Request& request, Response& response) {
      if (connection.stream != nullptr && connection.stream->too_large()) response.status = 413;
      if (!response.body.empty()) return;
      if (response.status == 404) return answer_not_found(request, response);
      connection.close |= response.status == 400;  // nobody knows where the next request begins
      answer_error(response, plain_error(response.status));
    });
    // Before the answer leaves: a client that has it finds it counted.
    set_post_routing_handler([this](const Request& request, const Response& response) {
      metrics_.count_request(metrics_path(request.path), response.status);
    });
    set_logger([this](const Request& request, const Response& response) {
      if (options_.access_log)
        fmt::print(stderr, "{} {} {} {} {:.0f} ms\n", request.remote_addr, request.method, request.path,
                   response.status, ms_since(connection.began));
    });
  }

  // What can be said of a request before its body is read.
  std::optional<ApiError> refusal(const Request& request) const {
    if (local_ && options_.key.empty() && !is_local_host_header(request.get_header_value("Host")))
      return ApiError(403, "", "wrong_host", "the Host header names another machine");
    const bool open = request.method == "GET" && (request.path == "/" || request.path == "/health");
    if (!open && !options_.key.empty() &&
        !key_matches(request.get_header_value("Authorization"), options_.key))
      return ApiError(401, "", "invalid_api_key", "this server wants a key: Authorization: Bearer KEY");
    if (auto fault = length_fault(request)) return fault;
    if (request.method != "POST") return std::nullopt;
    // A page of another site can send other types without asking first.
    if (!request.get_header_value("Content-Type").starts_with(kJson))
      return ApiError(415, "", "wrong_content_type", "the Content-Type must be application/json");
    if (request.has_header("Content-Encoding"))
      return ApiError(415, "", "wrong_content_encoding", "a compressed body is not taken");
    const auto length = request.get_header_value<std::uint64_t>("Content-Length");
    if (length > static_cast<std::uint64_t>(options_.max_body_bytes)) {
      return ApiError(
          413, "", "body_too_large",
          fmt::format("the body has {} bytes, at most {} are taken", length, options_.max_body_bytes));
    }
    return std::nullopt;
  }

  void prepare(Request& request) {
    request.headers.erase("Accept-Encoding");  // compression would hold back what is streamed
    connection.refused = refusal(request);
    // Only POST's body is sure to be read.
    const bool rest_is_body = request.method != "POST" && has_body(request);
    connection.close = draining_ || connection.refused.has_value() || rest_is_body;
    if (!connection.close) return;
    request.headers.erase("Connection");
    request.headers.emplace("Connection", "close");
  }

  bool process_and_close_socket(socket_t socket) override {
    const int yes = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    SocketStream stream(socket, limits_);
    const auto stopped = [this] { return svr_sock_ == INVALID_SOCKET || draining_; };
    bool went_well = true, closed = false;
    while (went_well && !closed && stream.wait_for_request(kKeepAlive, stopped)) {
      connection = {.stream = &stream, .began = Clock::now(), .refused = {}, .close = false};
      ++in_flight_;
      stream.begin_request();
      went_well = process_request(stream, /*close_connection=*/false, closed,
                                  [this](Request& request) { prepare(request); });
      --in_flight_;
      closed = closed || connection.close || stream.too_large();
      connection = {};
    }
    stream.close_gently();
    return went_well;
  }

  Service& service_;
  Metrics& metrics_;
  HttpOptions options_;
  bool local_;
  StreamLimits limits_;
  int port_ = 0;
  std::atomic<bool> draining_{false};
  std::atomic<std::int64_t> in_flight_{0};
};

HttpServer::HttpServer(Service& service, Metrics& metrics, const HttpOptions& options)
    : impl_(std::make_unique<Impl>(service, metrics, options)) {}
HttpServer::~HttpServer() = default;

int HttpServer::port() const { return impl_->port(); }

std::string HttpServer::url() const {
  const std::string& host = impl_->options().host;
  const bool bare_ipv6 = host.find(':') != std::string::npos && !host.starts_with('[');
  return fmt::format("http://{}:{}", bare_ipv6 ? "[" + host + "]" : host, port());
}

void HttpServer::run() { impl_->run(); }
void HttpServer::drain() { impl_->drain(); }
std::int64_t HttpServer::in_flight() const { return impl_->in_flight(); }
void HttpServer::stop() { impl_->stop(); }

}  // namespace winnow
