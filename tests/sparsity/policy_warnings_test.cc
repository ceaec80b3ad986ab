#include "sparsity/policy_warnings.h"

#include <gtest/gtest.h>

namespace winnow {
namespace {

Policy measured(const nlohmann::json& value) {
  Policy policy;
  policy.name = "mine.json";
  policy.tokens.stages = {{.layer = 4, .keep = 0.5, .top_p = {}}};
  policy.measured = {{"second_question_niah", value}};
  return policy;
}

TEST(PolicyWarnings, SecondQuestionsThatAreLost) {
  const auto warnings = policy_warnings(measured(0.35));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("mine.json"), std::string::npos);
  EXPECT_NE(warnings[0].find("35%"), std::string::npos);
  EXPECT_NE(warnings[0].find("second_question_niah"), std::string::npos);
  EXPECT_EQ(warnings[0].find("dense: "), std::string::npos);
}

TEST(PolicyWarnings, SecondQuestionsBesideDense) {
  Policy policy = measured(0.35);
  policy.measured["second_question_niah_dense"] = 0.57;
  const auto warnings = policy_warnings(policy);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("35%"), std::string::npos) << warnings[0];
  EXPECT_NE(warnings[0].find("dense: 57%"), std::string::npos) << warnings[0];
}

TEST(PolicyWarnings, NoneWhereDenseLosesAsManySecondQuestions) {
  Policy policy = measured(0.57);
  policy.measured["second_question_niah_dense"] = 0.58;
  EXPECT_EQ(policy_warnings(policy).size(), 1u);
  for (const double dense : {0.57, 0.5, 0.0}) {
    policy.measured["second_question_niah_dense"] = dense;
    EXPECT_TRUE(policy_warnings(policy).empty()) << dense;
  }
  policy.measured["second_question_niah_dense"] = nullptr;
  EXPECT_EQ(policy_warnings(policy).size(), 1u);
}

TEST(PolicyWarnings, LengthsItWasNotMeasuredAt) {
  Policy policy = measured(1.0);
  EXPECT_EQ(length_warning(policy, 34), "");
  policy.measured["length"] = 4096;
  for (const std::int64_t tokens : {2048, 4096, 8192})
    EXPECT_EQ(length_warning(policy, tokens), "") << tokens;
  for (const std::int64_t tokens : {34, 2047, 8193}) {
    const std::string warning = length_warning(policy, tokens);
    EXPECT_NE(warning.find("4096 tokens"), std::string::npos) << warning;
    EXPECT_NE(warning.find(std::to_string(tokens)), std::string::npos) << warning;
  }
  policy.tokens.stages.clear();
  EXPECT_EQ(length_warning(policy, 34), "");
}

TEST(PolicyWarnings, NothingToSay) {
  EXPECT_TRUE(policy_warnings(measured(0.9)).empty());
  EXPECT_TRUE(policy_warnings(measured(nullptr)).empty());
  Policy unmeasured = measured(0.1);
  unmeasured.measured = nullptr;
  EXPECT_TRUE(policy_warnings(unmeasured).empty());
  Policy dense = measured(0.1);
  dense.tokens.stages.clear();
  EXPECT_TRUE(policy_warnings(dense).empty());
}

}  // namespace
}  // namespace winnow
