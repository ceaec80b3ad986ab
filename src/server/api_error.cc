#include "server/api_error.h"

namespace winnow {
namespace {

const char* error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable_error";
    case 504: return "timeout_error";
    default: return status < 500 ? "invalid_request_error" : "server_error";
  }
}

nlohmann::json text_or_null(const std::string& text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

}  // namespace

nlohmann::json ApiError::body() const {
  return {{"error",
           {{"message", what()},
            {"type", error_type(status_)},
            {"param", text_or_null(param_)},
            {"code", text_or_null(code_)}}}};
}

ApiError to_api_error(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kBadArgument:
    case ErrorCode::kBadFormat: return {400, "", "", error.what()};
    case ErrorCode::kOutOfMemory: return {503, "", "out_of_memory", error.what()};
    case ErrorCode::kIo:
    case ErrorCode::kUnsupported: break;
  }
  return {500, "", "", error.what()};
}

}  // namespace winnow
