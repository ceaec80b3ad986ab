#include "report/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "report/html.h"
#include "report/svg_chart.h"

namespace winnow {
namespace {

std::string file_text(const std::string& name) {
  std::ifstream file(std::string(WINNOW_TEST_DATA) + "/report/" + name, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

ResultFile result(const std::string& name) { return read_result(name, file_text(name)); }

std::string report_of(const std::string& name) {
  const ResultFile file = result(name);
  return render_report({&file, 1}, {});
}

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(Report, KnowsItsFiles) {
  EXPECT_EQ(result("profile.json").kind, ResultKind::kProfile);
  EXPECT_EQ(result("frontier.json").kind, ResultKind::kFrontier);
  EXPECT_EQ(result("eval.json").kind, ResultKind::kEval);
  EXPECT_EQ(result("sparsity.json").kind, ResultKind::kSparsity);
  EXPECT_EQ(result("answer.json").kind, ResultKind::kAnswer);
  EXPECT_EQ(read_result("p", R"({"version": 1, "tokens": {}})").kind, ResultKind::kPolicy);
  EXPECT_THROW(read_result("x.json", "{}"), Error);
  EXPECT_THROW(read_result("x.json", "[]"), Error);
  EXPECT_THROW(read_result("x.json", "{"), Error);
}

TEST(Report, ProfileHasTheTableAndCharts) {
  const std::string page = report_of("profile.json");
  EXPECT_EQ(count_of(page, "<svg"), 8);
  EXPECT_EQ(count_of(page, "<tr>"), 10);
  EXPECT_TRUE(
      has(page, "<td>keep08</td><td>1,024</td><td>16</td><td>614</td><td>40</td><td>654</td><td>1.67×</td>"));
  EXPECT_TRUE(has(page, "class=\"copy\""));
}

TEST(Report, NothingFromAFileIsMarkup) {
  const std::string page = report_of("profile.json");
  EXPECT_FALSE(has(page, "<b>tiny"));
  EXPECT_FALSE(has(page, "<script>alert"));
  EXPECT_TRUE(has(page, "&lt;script&gt;alert(1)"));
  EXPECT_EQ(escape("a<b>\"&'\x01\xff"), "a&lt;b&gt;&quot;&amp;&#39;\xEF\xBF\xBD");
}

TEST(Report, NothingFromElsewhere) {
  for (const char* name : {"profile.json", "frontier.json", "eval.json", "sparsity.json", "answer.json"}) {
    const std::string page = report_of(name);
    EXPECT_FALSE(has(page, "http://") || has(page, "https://") || has(page, " src=\"/")) << name;
    EXPECT_FALSE(has(page, "nan") || has(page, "inf\"")) << name;
  }
}

TEST(Report, QualityAndSparsity) {
  const std::string frontier = report_of("frontier.json"), sparsity = report_of("sparsity.json");
  EXPECT_EQ(count_of(frontier, "<svg"), 3);
  EXPECT_TRUE(has(frontier, "16/.3"));
  EXPECT_TRUE(has(frontier, "h2o=0.40"));
  EXPECT_TRUE(has(frontier, "baseline"));
  EXPECT_TRUE(has(report_of("eval.json"), "0.05 [0.025, 0.1]"));
  EXPECT_FALSE(has(report_of("eval.json"), "too few items"));
  EXPECT_EQ(count_of(sparsity, "<svg"), 4);
  EXPECT_EQ(count_of(sparsity, "class=\"heat\""), 12);
}

TEST(Report, SaysWhereAnEvaluationIsToBeReadWithCare) {
  const ResultFile file =
      read_result("e.json", R"({"results": [{"policy": "auto", "task": "kl", "length": 400,
    "value": 0.25, "ci95": null, "n": 2, "gated": 0.75}], "notes": ["auto at 400 tokens: <75%>", 3]})");
  const std::string page = render_report({&file, 1}, {});
  EXPECT_TRUE(has(page, "<td>0.25</td><td>2</td>"));
  EXPECT_TRUE(has(page, "too few items"));
  EXPECT_TRUE(has(page, "<td>75.0%</td></tr>"));
  EXPECT_TRUE(has(page, "Note: auto at 400 tokens: &lt;75%&gt;"));
}

TEST(Report, SaysWhereAProfileWasGated) {
  const ResultFile file = read_result("p.json", R"({"results": [
    {"policy": "auto", "length": 400, "attention_layers": [{"gated": "first layers"}, {"gated": "short"}, {"gated": "too dense"}]},
    {"policy": "auto", "length": 4000, "attention_layers": [{"gated": "first layers"}, {"gated": ""}, {"gated": ""}]}]})");
  const std::string page = render_report({&file, 1}, {});
  EXPECT_TRUE(has(page, "auto at 400 tokens: in 2 of 3 layers"));
  EXPECT_FALSE(has(page, "auto at 4,000 tokens: in"));
}

TEST(Report, TokensByTheStageThatDroppedThem) {
  const std::string page = report_of("answer.json");
  EXPECT_TRUE(has(page,
                  "<span>The </span><span class=\"d1\">&lt;b&gt;</span><span class=\"d2\"> mill</span><span "
                  "class=\"d1\"> is</span>"));
  EXPECT_TRUE(has(page, "48213 &amp; more"));
}

TEST(Report, Pictures) {
  const std::vector<Picture> pictures{{"layer0 \"x\".png", std::string("\x89PNG\r\n\x1a\n", 8) + "abc"}};
  const std::string page = render_report({}, pictures);
  EXPECT_TRUE(has(page, "src=\"data:image/png;base64,iVBORw0KGgphYmM=\""));
  EXPECT_TRUE(has(page, "layer0 &quot;x&quot;.png"));
  const std::vector<Picture> wrong{{"a.png", "<svg onload=alert(1)>"}};
  EXPECT_THROW(render_report({}, wrong), Error);
}

// Files from elsewhere may have anything anywhere.
TEST(Report, OddFiles) {
  for (
      const char* text :
      {R"({"results": []})", R"({"results": [1, null, "a", {"policy": 3}]})",
       R"({"results": [{"task": "kl", "value": "x", "ci95": [1]}]})", R"({"frontier": [[], 3]})",
       R"({"sweep": [{"by_layer": {"density": ["a"], "head_density": [3]}}], "layers": [{"heads": [{"below": {}}]}]})",
       R"({"winnow": {"pieces": [1], "stages": [{"kept_positions": [-1, 1e300, "a"]}]}})",
       R"({"winnow": {"stages": [3]}, "choices": [3]})"}) {
    const ResultFile file = read_result("odd.json", text);
    EXPECT_TRUE(render_report({&file, 1}, {}).ends_with("</html>\n")) << text;
  }
}

TEST(SvgChart, LeavesOutWhatHasNoPlace) {
  EXPECT_EQ(line_chart({}, {}), "");
  EXPECT_EQ(line_chart({{"a", {{NAN, 1, ""}, {1, INFINITY, ""}}}}, {}), "");
  EXPECT_EQ(line_chart({{"a", {{0, 1, ""}}}}, {.log_x = true}), "");
  const std::string one = line_chart({{"a", {{1, 1, "p"}, {2, NAN, ""}}}}, {.log_y = true});
  EXPECT_EQ(count_of(one, "<title>"), 1);
  EXPECT_EQ(heat_map({}, {}), "");
}

// Numbers that people write: 0.01, not a power of two. Lengths are powers of two.
TEST(SvgChart, LogarithmicAxesHaveRoundNumbers) {
  const ChartSeries costs{.name = "policy", .points = {{512, 0.009, ""}, {1024, 0.03, ""}, {2048, 0.3, ""}}};
  const std::string svg = line_chart({costs}, {.log_x = true, .log_y = true});
  for (const char* number : {">512<", ">1,024<", ">2,048<", ">0.01<", ">0.02<", ">0.05<", ">0.1<", ">0.2<"})
    EXPECT_NE(svg.find(number), std::string::npos) << number << svg;
  EXPECT_EQ(svg.find(">0.0156<"), std::string::npos);
}

TEST(SvgChart, NarrowLogarithmicAxesHaveNumbersToo) {
  const auto chart = [](double low, double high) {
    return line_chart({{.name = "policy", .points = {{4096, low, ""}, {4096, high, ""}}}},
                      {.log_x = true, .log_y = true});
  };
  const std::string times = chart(53, 99);
  for (const char* number : {">60<", ">70<", ">80<", ">90<", ">4,096<"})
    EXPECT_NE(times.find(number), std::string::npos) << number << times;
  const std::string losses = chart(0.021, 0.048);
  for (const char* number : {">0.03<", ">0.04<"})
    EXPECT_NE(losses.find(number), std::string::npos) << number << losses;
}

TEST(SvgChart, TheLegendNamesWhatIsDrawn) {
  const std::string svg = line_chart(
      {{.name = "drawn", .points = {{1, 2, ""}, {2, 3, ""}}}, {.name = "absent", .points = {}}}, {});
  EXPECT_NE(svg.find(">drawn<"), std::string::npos);
  EXPECT_EQ(svg.find(">absent<"), std::string::npos);
}

TEST(Html, Numbers) {
  EXPECT_EQ(short_number(1234567), "1,234,567");
  EXPECT_EQ(short_number(-1234.5), "−1,234");
  EXPECT_EQ(short_number(12.34), "12.3");
  EXPECT_EQ(short_number(0.012345), "0.0123");
  EXPECT_EQ(short_number(0), "0");
  EXPECT_EQ(short_number(NAN), "–");
  EXPECT_EQ(bytes_text(8100000), "8.10 MB");
  EXPECT_EQ(milliseconds(12345), "12.3 s");
}

}  // namespace
}  // namespace winnow
