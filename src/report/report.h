// A report: results of winnow's commands as one HTML file that needs nothing else, for the screen and for
// paper.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "report/result_file.h"

namespace winnow {

// A picture of attention, as winnow sparsity --maps writes it.
struct Picture {
  std::string name;
  std::string png;  // the file's bytes
};

// Error(kBadFormat) naming a picture that is no PNG.
std::string render_report(std::span<const ResultFile> results, std::span<const Picture> pictures);

}  // namespace winnow
