// The texts that scorers are trained on, and the windows cut from them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/eval_text.h"
#include "eval/prompt_encoder.h"
#include "runtime/engine.h"

namespace winnow {

// A plain text, or, where the name ends in .jsonl, the documents of JSON lines: their "text", or Dolly's
// "instruction", "context" and "response". Error(kBadFormat) naming file, line and key; Error(kBadArgument)
// for a file without text.
EvalText parse_training_text(const std::string& name, const std::string& bytes);

struct TrainingWindow {
  std::vector<TokenId> tokens;
  std::int64_t context =
      0;                   // tokens that a policy would prune; what follows them is what they are needed for
  bool retrieval = false;  // a question about something hidden in the text, and its answer
};

struct WindowSettings {
  std::int64_t tokens = 2048;  // of the longest window; the shortest has half as many
  std::int64_t future = 64;    // tokens after the context of a window of text
  double retrieval = 0.5;      // share of retrieval windows
  std::uint64_t seed = 0;
};

// Windows by number: the i-th is a function of texts, settings and i alone. Training windows come from the
// first nine tenths of each text, validation windows from the rest.
class TrainingWindows {
 public:
  // Error(kBadArgument) when no text is long enough for a window, naming the tokens wanted and had.
  TrainingWindows(const Engine& engine, std::vector<EvalText> texts, const WindowSettings& settings);

  TrainingWindow training(std::int64_t index) const { return make(training_, "train", index); }
  TrainingWindow validation(std::int64_t index) const { return make(validation_, "validate", index); }
  // Windows of the same texts with at most so many tokens. Error(kBadArgument) as above.
  TrainingWindows shortened(std::int64_t tokens) const;
  nlohmann::json identity() const { return identity_; }  // of the texts

 private:
  struct Part {
    std::vector<std::vector<TokenId>> tokens;  // of the texts that are long enough
    std::vector<EvalText> texts;
  };

  TrainingWindow make(const Part& part, const char* stream, std::int64_t index) const;
  void add_text(Part& part, const EvalText& text) const;
  void check_settings() const;

  const Engine& engine_;
  WindowSettings settings_;
  PromptEncoder plain_, chat_;
  nlohmann::json identity_;
  Part training_, validation_;
};

}  // namespace winnow
