// Data files that come with winnow: texts to measure on, policies made for known models.
#pragma once

#include <string>
#include <vector>

namespace winnow {

// Folders that may hold winnow's data, in the order they are searched: $WINNOW_DATA_DIR alone if it is set;
// otherwise share/winnow in the folder of the program (or of the shared library this code is in), and in the
// two above it. An installed tree has it there, and so has a build tree.
std::vector<std::string> data_folders();

// The path of a data file or folder, "texts" or "policies/x.json". Error(kIo) names every place searched.
std::string find_data(const std::string& relative);

}  // namespace winnow
