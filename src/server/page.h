// The page at "/", one HTML file without anything from elsewhere (page.html, embedded when winnow is built).
#pragma once

#include <string_view>

namespace winnow {

extern const std::string_view kPage;

}  // namespace winnow
