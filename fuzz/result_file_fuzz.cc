// Result files of winnow report: an Error, or a page.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/check.h"
#include "core/error.h"
#include "report/report.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const winnow::ResultFile file =
        winnow::read_result("fuzz.json", std::string_view(reinterpret_cast<const char*>(data), size));
    winnow::check(winnow::render_report({&file, 1}, {}).ends_with("</html>\n"), "a whole page");
  } catch (const winnow::Error&) {
  }
  return 0;
}
