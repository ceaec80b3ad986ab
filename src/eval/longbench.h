// LongBench (arXiv 2308.14508) from a local file in its published JSON lines format: one dataset a file. The
// prompts, answer budgets and metrics of the English datasets are those of github.com/THUDM/LongBench; the
// data are not part of winnow.
#pragma once

#include <memory>
#include <string>

#include "eval/task.h"

namespace winnow {

// The task "longbench_<dataset>". Error(kIo), or naming file and line kBadFormat for what is not the format,
// kUnsupported for a dataset that is not English.
std::unique_ptr<Task> make_longbench(const std::string& path);

}  // namespace winnow
