#include "server/http_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace winnow {
namespace {

using Clock = std::chrono::steady_clock;

bool wait_for(int socket, short what, std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{socket, what, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
    if (ready > 0) return (entry.revents & (what | POLLHUP)) != 0;
    if (ready == 0 || errno != EINTR) return false;
  }
}

// "127.0.0.1" and the port of either end of a connection.
template <class GetName>
void name_of(int socket, GetName get_name, std::string& ip, int& port) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (get_name(socket, reinterpret_cast<sockaddr*>(&address), &length) != 0) return;
  std::array<char, NI_MAXHOST> host;
  std::array<char, NI_MAXSERV> service;
  if (getnameinfo(reinterpret_cast<sockaddr*>(&address), length, host.data(), host.size(), service.data(),
                  service.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return;
  ip = host.data();
  port = std::atoi(service.data());
}

}  // namespace

bool SocketStream::wait_for_request(std::chrono::milliseconds timeout, const std::function<bool()>& stop) {
  constexpr std::chrono::milliseconds kLook{100};
  if (begin_ < end_) return true;
  for (const auto deadline = Clock::now() + timeout; Clock::now() < deadline;) {
    if (wait_for(socket_, POLLIN, kLook)) return !client_gone();
    if (stop()) return false;
  }
  return false;
}

void SocketStream::begin_request() {
  deadline_ = Clock::now() + limits_.request_time;
  left_ = limits_.request_bytes;
  too_large_ = false;
}

bool SocketStream::client_gone() const {
  char byte = 0;
  const ssize_t count = ::recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (count > 0) return false;
  return count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

void SocketStream::close_gently() {
  ::shutdown(socket_, SHUT_WR);
  // A socket closed with unread bytes resets the connection, and the client loses what it has not read yet.
  constexpr std::int64_t kMostBytes = 64 << 20;
  const auto deadline = Clock::now() + std::chrono::seconds(1);
  for (std::int64_t drained = 0; drained < kMostBytes && Clock::now() < deadline;) {
    if (!wait_for(socket_, POLLIN, std::chrono::milliseconds(200))) break;
    const ssize_t count = ::recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (count <= 0) break;
    drained += count;
  }
  ::close(socket_);
}

bool SocketStream::is_readable() const {
  return begin_ < end_ || wait_for(socket_, POLLIN, limits_.write_time);
}

bool SocketStream::is_writable() const {
  return wait_for(socket_, POLLOUT, limits_.write_time) && !client_gone();
}

ssize_t SocketStream::read(char* data, std::size_t size) {
  if (begin_ == end_) {
    const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now());
    if (time.count() <= 0 || !wait_for(socket_, POLLIN, time)) return -1;
    const ssize_t count = ::recv(socket_, buffer_.data(), buffer_.size(), 0);
    if (count <= 0) return count;
    begin_ = 0;
    end_ = static_cast<std::size_t>(count);
  }
  const std::size_t taken = std::min(size, end_ - begin_);
  left_ -= static_cast<std::int64_t>(taken);
  if (left_ < 0) {
    too_large_ = true;
    return -1;
  }
  std::memcpy(data, buffer_.data() + begin_, taken);
  begin_ += taken;
  return static_cast<ssize_t>(taken);
}

ssize_t SocketStream::write(const char* data, std::size_t size) {
  if (!wait_for(socket_, POLLOUT, limits_.write_time)) return -1;
  return ::send(socket_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void SocketStream::get_remote_ip_and_port(std::string& ip, int& port) const {
  name_of(socket_, ::getpeername, ip, port);
}

void SocketStream::get_local_ip_and_port(std::string& ip, int& port) const {
  name_of(socket_, ::getsockname, ip, port);
}

}  // namespace winnow
