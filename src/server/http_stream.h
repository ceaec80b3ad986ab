// SocketStream: a connection as cpp-httplib reads and writes it, with limits of our own: how long a request
// may take to arrive, how large it may be, and whether the client is still there.
#pragma once

#include <httplib.h>

#include <chrono>
#include <cstdint>

namespace winnow {

struct StreamLimits {
  std::chrono::milliseconds request_time{30000};  // for headers and body to arrive
  std::chrono::milliseconds write_time{30000};    // for the client to take what is sent
  std::int64_t request_bytes = 8 << 20;           // headers and body
};

class SocketStream : public httplib::Stream {
 public:
  // The socket stays the caller's.
  SocketStream(int socket, const StreamLimits& limits) : socket_(socket), limits_(limits) {}

  // Waits for the first byte of a request. False: none came in time, or the client is gone, or `stop` said
  // so.
  bool wait_for_request(std::chrono::milliseconds timeout, const std::function<bool()>& stop);
  // From here on the limits of a new request count.
  void begin_request();
  bool too_large() const { return too_large_; }

  // Whether the client has closed its side. Never waits.
  bool client_gone() const;
  // Closes so that the client can still read what was sent, even if it has not sent all of its request.
  void close_gently();

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* data, std::size_t size) override;
  ssize_t write(const char* data, std::size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

 private:
  int socket_;
  StreamLimits limits_;
  std::chrono::steady_clock::time_point deadline_{};
  std::int64_t left_ = 0;  // bytes the request may still have
  bool too_large_ = false;
  // Bytes read from the socket and not yet asked for: the reader of headers asks for one at a time.
  std::array<char, 16384> buffer_;
  std::size_t begin_ = 0, end_ = 0;
};

}  // namespace winnow
