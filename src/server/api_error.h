// ApiError: a request that is refused, as OpenAI's API says it. Thrown by everything in server/ that looks at
// a request; becomes the response in one place (http_server.cc).
#pragma once

#include <fmt/format.h>

#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "core/error.h"

namespace winnow {

// A copy has texts of its own: it may go to another thread.
class ApiError : public std::exception {
 public:
  // `param` names the field ("messages[2].role"), "" none; `code` is for programs
  // ("context_length_exceeded"),
  // "" none.
  ApiError(int status, std::string param, std::string code, std::string message)
      : status_(status), param_(std::move(param)), code_(std::move(code)), message_(std::move(message)) {}

  const char* what() const noexcept override { return message_.c_str(); }
  int status() const { return status_; }
  const std::string& param() const { return param_; }
  const std::string& code() const { return code_; }
  std::optional<int> retry_after_s;  // for the header of that name

  // {"error": {"message", "type", "param", "code"}}
  nlohmann::json body() const;

 private:
  int status_;
  std::string param_, code_, message_;
};

// 400, naming the field.
template <class... Args>
[[noreturn]] void bad_field(const std::string& param, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError(400, param, "",
                 fmt::format("{}: ", param) + fmt::format(format, std::forward<Args>(args)...));
}

// What an Error means to a client: bad arguments 400, too little memory 503, all else 500.
ApiError to_api_error(const Error& error);

}  // namespace winnow
