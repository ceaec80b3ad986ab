#include "core/bus_error.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace winnow {
namespace {

// Everything below runs in a signal handler: no allocation, nothing of the C++ library that could.

void say(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

// Takes a hexadecimal number off the front.
std::uintptr_t take_address(std::string_view& text) {
  std::uintptr_t value = 0;
  for (; !text.empty(); text.remove_prefix(1)) {
    const char c = text.front();
    if (c >= '0' && c <= '9') {
      value = value * 16 + static_cast<std::uintptr_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      value = value * 16 + static_cast<std::uintptr_t>(c - 'a' + 10);
    } else {
      break;
    }
  }
  return value;
}

// The path in a line of /proc/self/maps, "begin-end rights offset device inode path", if `address` lies
// there.
std::string_view mapped_path(std::string_view line, std::uintptr_t address) {
  const std::uintptr_t begin = take_address(line);
  if (line.empty()) return {};
  line.remove_prefix(1);
  if (address < begin || address >= take_address(line)) return {};
  const std::size_t path = line.find('/');
  return path == std::string_view::npos ? std::string_view{} : line.substr(path);
}

// Calls fn(line) for the lines of /proc/self/maps until it returns true; overlong lines come in parts.
template <class Fn>
void for_each_mapping(const Fn& fn) {
  const int file = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  char buffer[8192];
  std::size_t held = 0;
  bool found = false;
  for (ssize_t got; !found && (got = ::read(file, buffer + held, sizeof buffer - held)) > 0;) {
    std::string_view text(buffer, held + static_cast<std::size_t>(got));
    for (std::size_t end; !found && (end = text.find('\n')) != text.npos; text.remove_prefix(end + 1))
      found = fn(text.substr(0, end));
    held = text.size() == sizeof buffer ? 0 : text.size();
    std::memmove(buffer, text.data(), held);
  }
  ::close(file);
}

void on_bus_error(int signal, siginfo_t* info, void* /*context*/) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for_each_mapping([&](std::string_view line) {
    const std::string_view path = mapped_path(line, address);
    if (path.empty()) return false;
    say("winnow: ");
    say(path);
    say(": became shorter while it was read, or its disk failed\n");
    ::_exit(1);
  });
  std::signal(signal, SIG_DFL);  // not a mapped file's: end as without a handler
  ::raise(signal);
}

}  // namespace

void explain_bus_errors() {
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace winnow
