// What the system says of its processor.
#pragma once

#include <string>

namespace winnow {

// The value of the first line "key : value" of /proc/cpuinfo whose key begins so; empty elsewhere.
std::string cpu_info(const std::string& key);

}  // namespace winnow
