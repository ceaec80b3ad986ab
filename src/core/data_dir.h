// Data files that come with winnow: texts to measure on, policies made for known models.
#pragma once

#include <string>
#include <vector>

namespace winnow {

// Folders that hold winnow's data, in the order they are searched: $WINNOW_DATA_DIR alone if it is set;
// otherwise ../share/winnow beside the program's folder (installed), then the source tree the program was
// configured from (its data/ folder, then the tree itself, which has policies/).
std::vector<std::string> data_folders();

// The path of a data file or folder, "texts" or "policies/x.json". Error(kIo) names every place searched.
std::string find_data(const std::string& relative);

}  // namespace winnow
