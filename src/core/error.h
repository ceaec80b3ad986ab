// The one exception type of winnow.
//
// Thrown where bad data enters (files, flags, prompts, policies) and caught once in the CLI. The message
// names the file, the key and the value, and says what to do. Programming errors are not Errors: they abort
// through check().
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace winnow {

enum class ErrorCode {
  kIo,           // a file cannot be opened, mapped or written
  kBadFormat,    // the bytes of a file contradict its format
  kUnsupported,  // well-formed, but nothing winnow can run
  kBadArgument,  // a flag, prompt or policy that makes no sense for this model
  kOutOfMemory,  // the estimate exceeds what the machine has
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// fail(ErrorCode::kIo, "{}: cannot open: {}", path, reason)
template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace winnow
