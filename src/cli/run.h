// What the files of `winnow run` share: run.cc (one answer), compare.cc (two, side by side), chat.cc (a
// conversation).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/answer.h"
#include "cli/common.h"
#include "cli/prune_log.h"

namespace winnow::cli {

struct RunOptions {
  ModelOptions model;
  SamplerOptions sampling;
  std::optional<std::string> prompt, file;
  std::optional<std::string> policy;  // not named: dense
  std::string prune_log;
  std::vector<std::string> stop_strings;
  std::int64_t max_new_tokens = 128;
  bool chat = false, compare = false, as_json = false, positions = false, parse_special = false;
};

// The prompt as tokens; `text` is a user's message with --chat.
TokenisedPrompt tokenise_prompt(const Tokenizer& tokenizer, const std::string& text, bool chat,
                                bool parse_special);

// The same prompt read densely and under `policy`: both answers and what differs.
int compare(const Engine& engine, const RunOptions& options, const Policy& policy, const std::string& text,
            PruneLog& log);

// Questions from the terminal until Ctrl-D or /exit.
int converse(const Engine& engine, const RunOptions& options, const Policy& policy, PruneLog& log);

}  // namespace winnow::cli
