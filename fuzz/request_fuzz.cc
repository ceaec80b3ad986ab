// Bodies of HTTP requests. Whatever comes in, it is a request or an ApiError with a body that can be sent.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/check.h"
#include "server/api_error.h"
#include "server/request.h"

namespace {

// As it is sent: OpenAI's shape, the message repaired where it quotes what is not UTF-8.
void check_refusal(const winnow::ApiError& error) {
  const auto body = error.body();
  winnow::check(error.status() == 400 && body.at("error").at("message").is_string() &&
                    !body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).empty(),
                "a fault of the client's");
}

template <class Parse>
void try_to_parse(Parse parse, const nlohmann::json& body) {
  try {
    parse(body);
  } catch (const winnow::ApiError& error) {
    check_refusal(error);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  nlohmann::json body;
  try {
    body = winnow::parse_body(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const winnow::ApiError& error) {
    check_refusal(error);
    return 0;
  }
  try_to_parse(winnow::parse_chat, body);
  try_to_parse(winnow::parse_completion, body);
  try_to_parse(winnow::parse_tokenize, body);
  return 0;
}
