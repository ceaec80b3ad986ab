// What each JSON output is called, and its version: one higher where a key is removed or changes its meaning.
// docs/json.md says what they hold.
#pragma once

namespace winnow::cli {

constexpr const char* kInspectSchema = "winnow.inspect/1";
constexpr const char* kRunSchema = "winnow.run/1";
constexpr const char* kCompareSchema = "winnow.compare/1";
constexpr const char* kBatchSchema = "winnow.batch/1";  // a line
constexpr const char* kStageSchema = "winnow.stage/1";  // a line of a prune log
constexpr const char* kPolicyCheckSchema = "winnow.policy_check/1";
constexpr const char* kProfileSchema = "winnow.profile/1";
constexpr const char* kSparsitySchema = "winnow.sparsity/1";
constexpr const char* kEvalSchema = "winnow.eval/1";
constexpr const char* kFrontierSchema = "winnow.frontier/1";  // calibrate --frontier
constexpr const char* kTrainSchema = "winnow.train/1";

}  // namespace winnow::cli
