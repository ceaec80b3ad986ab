// Task: makes questions with known answers, and scores what a model says to them.
//
// A question depends on (length, index, seed) alone. Tasks know the tokenizer, because a prompt is sized in
// tokens, and nothing of models or policies.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/prompt_encoder.h"

namespace winnow {

struct Question {
  PromptText prompt;
  std::vector<std::string> references;  // of what is scored: the follow-up's when there is one
  std::int64_t max_new_tokens = 128;
  std::optional<PromptText> follow_up;  // asked in a second turn, on the caches of the first
  bool cut_middle = false;              // a prompt that is too long loses its middle tokens (LongBench)
  std::int64_t source = 0;              // the task's own, e.g. a line of its file
};

class Task {
 public:
  explicit Task(std::string name) : name_(std::move(name)) {}
  virtual ~Task() = default;

  const std::string& name() const { return name_; }
  virtual std::string metric() const = 0;  // e.g. "string_match_all"
  // Error(kBadArgument) before any work when no prompt of `length` tokens can be made.
  virtual void check_length(std::int64_t length) const = 0;
  virtual std::int64_t items(std::int64_t wanted) const { return wanted; }
  virtual Question make(std::int64_t length, std::int64_t index, std::uint64_t seed) const = 0;
  virtual double score(const Question& question, const std::string& answer) const = 0;
  // What decides its questions beside length, index and seed (texts, files).
  virtual nlohmann::json identity() const { return name_; }

 private:
  std::string name_;
};

}  // namespace winnow
