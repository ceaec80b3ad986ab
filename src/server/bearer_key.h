// The key clients must send: where it comes from and how it is compared.
#pragma once

#include <string>
#include <string_view>

namespace winnow {

// The key in `file` (one line; Error(kIo, kBadArgument) when there is none), or, if `file` is "", in the
// environment variable `variable`; "" when neither says anything.
std::string read_bearer_key(const std::string& file, const std::string& variable);

// Whether the header `authorization` ("Bearer KEY") carries `key`. Takes the same time wherever they differ.
bool key_matches(std::string_view authorization, std::string_view key);

// Whether an address to listen on is reachable from this machine alone: localhost, 127.0.0.0/8, ::1.
bool is_loopback(const std::string& host);

// Whether a Host header names this machine as a local user would: anything else on a loopback address is a
// foreign web page whose name was pointed here.
bool is_local_host_header(std::string_view host);

}  // namespace winnow
