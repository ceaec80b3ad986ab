#include "server/bearer_key.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "core/error.h"

namespace winnow {
namespace {

void check_key(const std::string& key, const std::string& origin) {
  if (key.empty()) fail(ErrorCode::kBadArgument, "{}: the key is empty", origin);
  const auto bad = [](char c) {
    return static_cast<unsigned char>(c) <= 0x20 || static_cast<unsigned char>(c) >= 0x7f;
  };
  if (std::any_of(key.begin(), key.end(), bad))
    fail(ErrorCode::kBadArgument, "{}: the key must be one word of printable ASCII", origin);
}

std::string_view without_port(std::string_view host) {
  if (host.starts_with('[')) return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.find(':'));
}

}  // namespace

std::string read_bearer_key(const std::string& file, const std::string& variable) {
  std::string key;
  if (!file.empty()) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) fail(ErrorCode::kIo, "{}: cannot open the key's file", file);
    constexpr std::size_t kMaxKeyBytes = 4096;
    std::array<char, kMaxKeyBytes> bytes;
    stream.read(bytes.data(), bytes.size());
    key.assign(bytes.data(), static_cast<std::size_t>(stream.gcount()));
    while (!key.empty() && (key.back() == '\n' || key.back() == '\r')) key.pop_back();
    check_key(key, file);
  } else if (const char* value = std::getenv(variable.c_str())) {
    key = value;
    check_key(key, variable);
  }
  return key;
}

bool key_matches(std::string_view authorization, std::string_view key) {
  constexpr std::string_view kScheme = "Bearer ";
  const bool scheme = authorization.size() >= kScheme.size() &&
                      std::equal(kScheme.begin(), kScheme.end(), authorization.begin(), [](char a, char b) {
                        return (a | 0x20) == (b | 0x20);  // the scheme's name has no case
                      });
  const std::string_view given = scheme ? authorization.substr(kScheme.size()) : std::string_view();
  // Every byte given is looked at, whatever the key is; an empty key would match nothing.
  unsigned difference = given.size() == key.size() && !key.empty() ? 0 : 1;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const char expected = key.empty() ? '\0' : key[i % key.size()];
    difference |= static_cast<unsigned>(static_cast<unsigned char>(given[i] ^ expected));
  }
  return difference == 0;
}

bool is_loopback(const std::string& host) {
  if (host == "localhost" || host == "::1" || host == "[::1]") return true;
  // 127.x.y.z in digits; a name such as 127.example.com is none of it.
  return host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string::npos;
}

bool is_local_host_header(std::string_view host) { return is_loopback(std::string(without_port(host))); }

}  // namespace winnow
