#include "server/policy_book.h"

#include <gtest/gtest.h>

#include "server/api_error.h"
#include "support/scratch.h"

namespace winnow {
namespace {

const ModelFacts kModel{"model", "0123456789abcdef", 12, 4};

constexpr std::int64_t kTokens = 4000;

std::string measured(double kl, double speedup) {
  return R"({"version": 1, "tokens": {"stages": [{"layer": 4, "keep": 0.5}]}, "measured": {"kl": )" +
         std::to_string(kl) + R"(, "speedup": )" + std::to_string(speedup) + "}}";
}

class PolicyBookTest : public testing::Test {
 protected:
  void SetUp() override {
    scratch_.write("careful.json", measured(0.01, 1.2));
    scratch_.write("fast.json", measured(0.2, 2.5));
    scratch_.write("middle.json", measured(0.05, 1.8));
    scratch_.write("slow.json", measured(0.04, 1.1));
    scratch_.write("unmeasured.json", R"({"version": 1})");
    scratch_.write("other.json", R"({"version": 1, "model": {"layers": 99}})");
    scratch_.write("notes.txt", "no policy");
    book_.add_folder(scratch_.file(""));
  }
  Scratch scratch_;
  PolicyBook book_{kModel, "keep08"};
};

TEST_F(PolicyBookTest, FindsWhatItKnows) {
  EXPECT_EQ(book_.standard().name, "keep08");
  EXPECT_EQ(book_.find("default").name, "keep08");
  EXPECT_TRUE(book_.find("dense").dense());
  EXPECT_EQ(book_.find("fast").name, "fast");
  EXPECT_EQ(book_.find("keep07:recency").tokens.scorer, ScorerKind::kRecency);
  EXPECT_FALSE(book_.find("keep07+pooled=0.9").attention.dense());
  EXPECT_FALSE(book_.find("local").attention.dense());
}

// What caches in 8 bits cannot decode is neither found nor chosen within a budget.
TEST_F(PolicyBookTest, PassesOverWhatCachesAreNotFor) {
  scratch_.write("selected.json",
                 R"({"version": 1, "attention": {"selector": "pooled", "group_union": true,
                     "decode": "selected"}, "measured": {"kl": 0.001, "speedup": 9}})");
  PolicyBook same(kModel, "dense"), q8(kModel, "dense", KvType::kQ8);
  same.add_folder(scratch_.file(""));
  q8.add_folder(scratch_.file(""));
  EXPECT_EQ(same.fastest_within(1, kTokens).name, "selected");
  EXPECT_EQ(q8.fastest_within(1, kTokens).name, "fast");
  EXPECT_THROW(q8.find("selected"), ApiError);
}

TEST_F(PolicyBookTest, OpensNoFiles) {
  const std::string file = scratch_.file("fast.json");
  for (const std::string& text :
       {file, std::string("other"), std::string("keep08:learned=") + file, "dense+" + file,
        std::string("keep08:oracle"), std::string(""), std::string("../fast"),
        std::string("pooled=/etc/passwd"), std::string("pooled=1e999")}) {
    try {
      book_.find(text);
      ADD_FAILURE() << text;
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status(), 400);
      EXPECT_EQ(error.param(), "winnow.policy");
    }
  }
}

TEST_F(PolicyBookTest, AutoIsTheModelsOwn) {
  try {
    (void)book_.find("auto");
    FAIL() << "no policy came with this model";
  } catch (const ApiError& error) {
    EXPECT_NE(std::string(error.what()).find("no calibrated policy"), std::string::npos) << error.what();
  }
}

TEST_F(PolicyBookTest, FastestWithinBudget) {
  EXPECT_EQ(book_.fastest_within(1, kTokens).name, "fast");
  EXPECT_EQ(book_.fastest_within(0.05, kTokens).name, "middle");
  EXPECT_EQ(book_.fastest_within(0.045, kTokens).name, "careful");
  try {
    book_.fastest_within(0.001, kTokens);
    ADD_FAILURE();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.param(), "winnow.max_kl");
    EXPECT_NE(std::string(error.what()).find("careful (KL 0.01, 1.20x)"), std::string::npos) << error.what();
  }
  EXPECT_THROW(PolicyBook(kModel, "dense").fastest_within(9, kTokens), ApiError);
}

// What was measured at one length says nothing of another; dense is within every budget.
TEST_F(PolicyBookTest, ChoosesAmongThoseMeasuredNearThePromptsLength) {
  PolicyBook book(kModel, "keep08");
  Policy policy = book_.find("fast");
  policy.measured["length"] = 8192;
  book.add("long", policy);
  EXPECT_EQ(book.fastest_within(1, 8000).name, "fast");
  EXPECT_EQ(book.fastest_within(1, 4096).name, "fast");
  EXPECT_TRUE(book.fastest_within(1, 34).dense());
  EXPECT_TRUE(book.fastest_within(0.01, 20000).dense());
  EXPECT_THROW(book.fastest_within(0.01, 8000), ApiError);
}

}  // namespace
}  // namespace winnow
