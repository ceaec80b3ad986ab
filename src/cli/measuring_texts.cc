#include "cli/measuring_texts.h"

#include "cli/text_prompts.h"

namespace winnow::cli {

std::vector<EvalText> read_measuring_texts(const std::vector<std::string>& files) {
  std::vector<EvalText> texts;
  const auto add = [&](const std::vector<SourceText>& sources) {
    for (const SourceText& source : sources) texts.push_back({source.name, source.text});
  };
  if (files.empty()) add(read_texts("", "mix"));
  for (const std::string& file : files) add(read_texts(file, ""));
  return texts;
}

}  // namespace winnow::cli
