// One answered prompt: what each stage kept, and the text with the dropped tokens faded.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/html.h"
#include "report/sections.h"

namespace winnow {
namespace {

using nlohmann::json;

constexpr std::size_t kShades = 9;  // classes d1..d9 of the style sheet: dropped at that stage

// `winnow run --json` has everything at the top, the server under "winnow".
const json& details_of(const json& content) {
  const json& inner = object_of(content, "winnow");
  return inner.empty() ? content : inner;
}

std::string answer_text(const json& content) {
  if (content.contains("text")) return text_of(content, "text");
  const json& choices = list_of(content, "choices");
  if (choices.empty()) return "";
  const std::string text = text_of(choices.front(), "text");
  return text.empty() ? text_of(object_of(choices.front(), "message"), "content") : text;
}

// For each token the number of stages it went through.
std::vector<std::size_t> stages_survived(const json& stages, std::size_t tokens) {
  std::vector<std::size_t> survived(tokens, 0);
  std::size_t stage_number = 0;
  for (const json& stage : stages) {
    ++stage_number;
    for (const double place : numbers_of(stage, "kept_positions")) {
      if (place >= 0 && place < static_cast<double>(tokens))
        survived[static_cast<std::size_t>(place)] = stage_number;
    }
  }
  return survived;
}

std::string token_view(const json& details) {
  const json& pieces = list_of(details, "pieces");
  const json& stages = list_of(details, "stages");
  if (pieces.empty() || stages.empty() || list_of(stages.front(), "kept_positions").empty()) return "";
  const auto survived = stages_survived(stages, pieces.size());
  std::string out = "<p class=\"legend\">";
  for (std::size_t i = 0; i < stages.size(); ++i)
    out += fmt::format("<span class=\"d{}\">dropped before layer {}</span> ", std::min(i + 1, kShades),
                       escape(short_number(number_of(stages[i], "layer"))));
  out += "<span>read to the end</span></p>\n<div class=\"tokens\">";
  for (std::size_t begin = 0; begin < pieces.size();) {
    std::size_t end = begin;
    std::string text;
    while (end < pieces.size() && survived[end] == survived[begin]) {
      if (pieces[end].is_string()) text += pieces[end].get<std::string>();
      ++end;
    }
    const bool kept = survived[begin] == stages.size();
    out += kept ? "<span>" : fmt::format("<span class=\"d{}\">", std::min(survived[begin] + 1, kShades));
    out += escape(text) + "</span>";
    begin = end;
  }
  return out + "</div>\n";
}

}  // namespace

std::string answer_section(const ResultFile& file) {
  const json& details = details_of(file.content);
  HtmlTable table({"", "tokens in", "kept", "of the prompt"});
  for (const json& stage : list_of(details, "stages")) {
    table.add_row({"before layer " + short_number(number_of(stage, "layer")),
                   short_number(number_of(stage, "input_seq_len")),
                   short_number(number_of(stage, "tokens_kept")),
                   percent_text(number_of(stage, "cumulative_ratio"))});
  }
  std::string facts = fmt::format(
      "Policy {}: {} of {} prompt tokens kept, first token after {}, cache {}", text_of(details, "policy"),
      short_number(number_of(details, "kept_tokens")), short_number(number_of(details, "prompt_tokens")),
      milliseconds(number_of(details, "ttft_ms")), bytes_text(number_of(details, "kv_bytes")));
  const double dense = number_of(details, "kv_bytes_dense");
  if (std::isfinite(dense)) facts += fmt::format(" (dense {})", bytes_text(dense));
  return section("Prompt: " + file.name, paragraph(facts + ".") + (table.empty() ? "" : table.to_string()) +
                                             token_view(details) + "<h3>Answer</h3><div class=\"tokens\">" +
                                             escape(answer_text(file.content)) + "</div>\n");
}

}  // namespace winnow
