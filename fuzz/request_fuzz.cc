// Bodies of HTTP requests. Whatever comes in, it is a request or an ApiError with a body that can be sent.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/check.h"
#include "server/answer_format.h"
#include "server/api_error.h"
#include "server/request.h"

namespace {

template <class Parse>
void try_to_parse(Parse parse, const nlohmann::json& body) {
  try {
    parse(body);
  } catch (const winnow::ApiError& error) {
    winnow::check(error.status() == 400 && !winnow::dump(error.body()).empty(), "a fault of the client's");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  nlohmann::json body;
  try {
    body = winnow::parse_body(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const winnow::ApiError& error) {
    winnow::check(error.status() == 400 && !winnow::dump(error.body()).empty(), "a fault of the client's");
    return 0;
  }
  try_to_parse(winnow::parse_chat, body);
  try_to_parse(winnow::parse_completion, body);
  try_to_parse(winnow::parse_tokenize, body);
  return 0;
}
