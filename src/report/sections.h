// The parts of a report, one for each kind of result. Each gives HTML, escaped; "" when there is nothing to
// show.
#pragma once

#include <string>

#include "report/result_file.h"

namespace winnow {

std::string profile_section(
    const ResultFile& file);  // speed over length, the published table, memory by layer
std::string sparsity_section(const ResultFile& file);  // density by layer and head, the sweep
std::string eval_section(const ResultFile& file);      // tasks by policy
std::string frontier_section(const ResultFile& file);  // speed against quality
std::string answer_section(const ResultFile& file);    // one prompt: stages, and the tokens each dropped
std::string policy_section(const ResultFile& file);    // a policy and what was measured of it

}  // namespace winnow
