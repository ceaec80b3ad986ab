// The two files of `winnow batch`: prompts in, answers out, a JSON object a line.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "cli/batch_prompts.h"

namespace winnow::cli {

// parse_prompts() of a file, or of stdin for "-". Error(kIo) too.
std::vector<BatchPrompt> read_prompts(const std::string& path);

// Sets each prompt's hash, of itself and the settings of the run: a stored answer with the same hash is still
// right.
void hash_prompts(std::vector<BatchPrompt>& prompts, const std::string& settings);

// The output file: whole lines, appended one by one, so that an interrupted batch can go on where it stopped.
class AnswerFile {
 public:
  // Keeps the lines of an earlier run that answer one of `prompts` without an error, under the prompt's id of
  // now; half a last answer, failed prompts and answers to other prompts or settings are dropped. Where these
  // are finished answers, the file as it was stays beside this one (`saved_as`). Error(kIo), or
  // Error(kBadFormat) when the file is not winnow's.
  AnswerFile(const std::string& path, const std::vector<BatchPrompt>& prompts);
  AnswerFile(const AnswerFile&) = delete;
  AnswerFile& operator=(const AnswerFile&) = delete;
  ~AnswerFile();

  bool answered(const BatchPrompt& prompt) const { return answered_.contains(prompt.index); }
  std::int64_t kept() const { return static_cast<std::int64_t>(answered_.size()); }
  std::int64_t dropped() const { return dropped_; }
  const std::string& saved_as() const { return saved_as_; }  // empty: nothing finished was dropped

  void append(const nlohmann::json& line);

 private:
  std::string keep_answers(const std::string& text, const std::vector<BatchPrompt>& prompts);

  std::string path_, saved_as_;
  std::set<std::int64_t> answered_;          // indices
  std::int64_t dropped_ = 0, outdated_ = 0;  // of the dropped: answers to other prompts or settings
  int fd_ = -1;
};

}  // namespace winnow::cli
