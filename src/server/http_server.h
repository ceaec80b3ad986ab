// HttpServer: the service on a socket. Routes, keys, limits, server-sent events; what a request means is the
// service's business.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "server/metrics.h"
#include "server/service.h"

namespace winnow {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;       // 0: any that is free
  std::string key = {};  // clients must send it; "": none
  std::int64_t max_body_bytes = 8 << 20;
  std::chrono::milliseconds request_time{30000};  // for a request to arrive
  int threads = 160;                              // connections served at once
  bool access_log = false;                        // a line a request on stderr, without its content
};

class HttpServer {
 public:
  // Binds. `service` and `metrics` must outlive it. Error(kBadArgument) for an address other machines reach
  // without a key; Error(kIo) when the address cannot be had.
  HttpServer(Service& service, Metrics& metrics, const HttpOptions& options);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  ~HttpServer();

  int port() const;
  std::string url() const;  // "http://127.0.0.1:8080"

  void run();                      // serves until stop(); call it once
  void drain();                    // /health says so, connections close after their request
  std::int64_t in_flight() const;  // requests being answered
  void stop();                     // from another thread

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace winnow
