#include "cli/measuring_texts.h"

#include "cli/text_prompts.h"

namespace winnow::cli {

std::vector<EvalText> read_measuring_texts(const std::vector<std::string>& files) {
  std::vector<EvalText> texts;
  for (const SourceText& source : read_texts(files.empty() ? std::vector<std::string>{"mix"} : files)) {
    texts.push_back({source.name, source.text});
  }
  // The Jargon File's braces and dictionary entries mislead small models (docs/evaluation.md).
  if (files.empty()) {
    for (EvalText& text : texts) text.haystack = text.name.find("jargon") == std::string::npos;
  }
  return texts;
}

}  // namespace winnow::cli
