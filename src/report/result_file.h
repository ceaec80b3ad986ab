// ResultFile: one JSON file of winnow's, read for the report. Which command made it is seen from what it
// holds.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace winnow {

enum class ResultKind { kProfile, kSparsity, kEval, kFrontier, kPolicy, kAnswer };

struct ResultFile {
  std::string name;  // the file's, without its folder
  ResultKind kind;
  nlohmann::json content;
};

// Error(kBadFormat) for bad JSON and for what none of winnow's commands writes.
ResultFile read_result(const std::string& name, std::string_view text);

// Fields that may be missing or of another type in a file from elsewhere: not a number, "", nothing.
double number_of(const nlohmann::json& object, const char* key);
std::string text_of(const nlohmann::json& object, const char* key);
const nlohmann::json& list_of(const nlohmann::json& object, const char* key);    // an array, maybe empty
const nlohmann::json& object_of(const nlohmann::json& object, const char* key);  // an object, maybe empty
std::vector<double> numbers_of(const nlohmann::json& object, const char* key);

// "SmolLM2 135M, cpu, 2 threads, bf16; winnow 0.1.0, 2026-11-25": where a result comes from.
std::string origin_text(const nlohmann::json& content);

}  // namespace winnow
