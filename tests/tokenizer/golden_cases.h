// The cases of the golden files: texts, and how ids are held against the reference's.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"
#include "tokenizer_test_data.h"

namespace winnow {

struct Case {
  std::string name, text;
};

inline std::vector<Case> read_cases(const std::string& file = "cases.json") {
  std::vector<Case> cases;
  const nlohmann::json golden = read_golden(file);
  for (const nlohmann::json& entry : golden["cases"]) {
    const std::string bytes = bytes_of_hex(entry["hex"]);
    Case c{entry["name"], ""};
    for (int i = 0; i < entry["times"].get<int>(); ++i) c.text += bytes;
    cases.push_back(c);
  }
  return cases;
}

inline void expect_ids(const std::vector<TokenId>& ids, const nlohmann::json& expected,
                       const std::string& name) {
  if (expected.is_array()) {
    EXPECT_EQ(ids, expected.get<std::vector<TokenId>>()) << name;
  } else {
    EXPECT_EQ(summary_of(ids), expected) << name;
  }
}

// Ids of every case, control tokens parsed and left as text, against a golden file's rows.
inline void expect_cases(const Tokenizer& tokenizer, const nlohmann::json& rows,
                         const std::string& file = "cases.json") {
  const std::vector<Case> cases = read_cases(file);
  ASSERT_LE(rows.size(), cases.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const nlohmann::json& row = rows[i];
    expect_ids(tokenizer.encode(cases[i].text, /*parse_special=*/true), row["parsed"], cases[i].name);
    expect_ids(tokenizer.encode(cases[i].text, /*parse_special=*/false), row.value("plain", row["parsed"]),
               cases[i].name + ", control tokens as text");
  }
}

}  // namespace winnow
