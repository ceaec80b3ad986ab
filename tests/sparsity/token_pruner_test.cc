// Token pruning at one stage: the counts of design.md, ties, fallbacks, and the promises on random input.
#include "sparsity/token_pruner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <regex>

namespace winnow {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TokenPolicy protecting(std::int64_t head, std::int64_t tail_min, double tail_share) {
  TokenPolicy policy;
  policy.protect_head = head;
  policy.protect_tail_min = tail_min;
  policy.protect_tail_share = tail_share;
  return policy;
}

Stage keep(double share) { return {.layer = 5, .keep = share, .top_p = std::nullopt}; }
Stage top_p(double share) { return {.layer = 5, .keep = 1.0, .top_p = share}; }

struct Selection {
  std::vector<std::int64_t> kept;
  StageRecord record;
};

Selection select(std::span<const float> scores, const Stage& stage, const TokenPolicy& policy) {
  Selection result;
  result.kept = select_tokens(scores, stage, policy, result.record);
  return result;
}

std::vector<std::int64_t> range(std::int64_t begin, std::int64_t end) {
  std::vector<std::int64_t> result(static_cast<std::size_t>(end - begin));
  std::iota(result.begin(), result.end(), begin);
  return result;
}

std::vector<std::int64_t> head_and_last(std::int64_t length, std::int64_t head, std::int64_t count) {
  std::vector<std::int64_t> result = range(0, head);
  for (const std::int64_t i : range(length - (count - head), length)) result.push_back(i);
  return result;
}

std::vector<float> uniform(std::int64_t length, std::mt19937& generator) {
  std::uniform_real_distribution<float> distribution(-1.0f, 1.0f);
  std::vector<float> scores(static_cast<std::size_t>(length));
  for (float& score : scores) score = distribution(generator);
  return scores;
}

TEST(KeepCount, TheNumbersOfTheDesign) {
  const TokenPolicy policy;
  EXPECT_EQ(keep_count(4096, 0.7, policy), 2867);
  EXPECT_EQ(keep_count(10, 0.7, policy), 10);  // all protected
  EXPECT_EQ(keep_count(100, 0.7, policy), 70);
  EXPECT_EQ(keep_count(100, 0.01, policy), 20);  // 4 + max(16, 10)
  EXPECT_EQ(keep_count(1000, 0.01, policy), 104);
  EXPECT_EQ(keep_count(1, 0.01, protecting(0, 0, 0.0)), 1);
  EXPECT_EQ(keep_count(50, 0.001, protecting(0, 0, 0.0)), 1);
}

TEST(KeepCount, WholeProductsAreNotRoundedDown) {
  const TokenPolicy none = protecting(0, 0, 0.0);
  EXPECT_EQ(keep_count(100, 0.29, none), 29);  // 28.999999999999996 in double
  EXPECT_EQ(keep_count(10, 0.7, none), 7);
  EXPECT_EQ(keep_count(1000, 0.57, none), 570);
}

TEST(KeepCount, ProtectionFollowsTheCurrentLength) {
  EXPECT_EQ(protected_count(1000, protecting(4, 16, 0.1)), 104);
  EXPECT_EQ(protected_count(100, protecting(4, 16, 0.1)), 20);
  EXPECT_EQ(protected_count(10, protecting(4, 16, 0.1)), 10);
  EXPECT_EQ(protected_count(10, protecting(0, 0, 1.0)), 10);
  EXPECT_EQ(protected_count(10, protecting(0, 0, 0.0)), 0);
  EXPECT_EQ(protected_count(10, protecting(1'000'000'000, 1'000'000'000, 1.0)), 10);
}

TEST(SelectTokens, AQuotaGoesByScoreAndTheRestAreTheLatest) {
  TokenPolicy policy = protecting(1, 1, 0.0);
  const std::vector<float> scores = {0, 9, 8, 7, 1, 2, 3, 4, 0.5f, 0};
  const auto kept = [&](double quota) {
    policy.quota = quota;
    return select(scores, keep(0.6), policy).kept;  // 4 besides the first and the last
  };
  EXPECT_EQ(kept(1.0), (std::vector<std::int64_t>{0, 1, 2, 3, 7, 9}));
  EXPECT_EQ(kept(0.5), (std::vector<std::int64_t>{0, 1, 2, 7, 8, 9}));
  EXPECT_EQ(kept(0.74), kept(0.5)) << "rounded down";
  EXPECT_EQ(kept(0.25), (std::vector<std::int64_t>{0, 1, 6, 7, 8, 9}));
  EXPECT_EQ(kept(0.0), (std::vector<std::int64_t>{0, 5, 6, 7, 8, 9}));
  policy.quota = 0.5;
  EXPECT_EQ(select(std::vector<float>(10, 0.0f), keep(0.6), policy).kept, head_and_last(10, 1, 6));
}

TEST(Degenerate, ByTheDefinition) {
  const auto is_degenerate = [](std::vector<float> scores) { return degenerate(scores); };
  EXPECT_TRUE(is_degenerate({0, 0, 0}));
  EXPECT_TRUE(is_degenerate({0.0f, -0.0f}));
  EXPECT_TRUE(is_degenerate({3, 3, 3}));
  EXPECT_TRUE(is_degenerate({-3, -3}));
  EXPECT_TRUE(is_degenerate({5}));
  EXPECT_TRUE(is_degenerate({1, kNan, 2}));
  EXPECT_TRUE(is_degenerate({1, kInf}));
  EXPECT_TRUE(is_degenerate({1, -kInf}));
  EXPECT_FALSE(is_degenerate({1, 2}));
  EXPECT_FALSE(is_degenerate({0, 1e-30f}));
  EXPECT_FALSE(is_degenerate({1.0f, std::nextafter(1.0f, 2.0f)}));  // 1.2e-7 apart
  EXPECT_FALSE(is_degenerate({-std::numeric_limits<float>::max(), std::numeric_limits<float>::max()}));
}

TEST(SelectTokens, KeepsTheHighestInOrder) {
  const std::vector<float> scores = {0.1f, 0.9f, 0.2f, 0.8f, 0.3f, 0.7f};
  EXPECT_EQ(select(scores, keep(0.5), protecting(0, 0, 0.0)).kept, (std::vector<std::int64_t>{1, 3, 5}));
  EXPECT_EQ(select(scores, keep(0.5), protecting(1, 1, 0.0)).kept, (std::vector<std::int64_t>{0, 1, 5}));
}

TEST(SelectTokens, LaterPositionWinsATie) {
  const std::vector<float> scores = {1, 2, 1, 2, 1, 2, 3, 1};
  EXPECT_EQ(select(scores, keep(0.375), protecting(0, 0, 0.0)).kept, (std::vector<std::int64_t>{3, 5, 6}));
  EXPECT_EQ(select(scores, keep(0.625), protecting(0, 0, 0.0)).kept,
            (std::vector<std::int64_t>{1, 3, 5, 6, 7}));
}

TEST(SelectTokens, TheNumbersOfTheDesign) {
  std::mt19937 generator(1);
  const Selection large = select(uniform(4096, generator), keep(0.7), {});
  EXPECT_EQ(large.kept.size(), 2867u);
  EXPECT_FALSE(large.record.fallback_applied);
  EXPECT_EQ(select(uniform(10, generator), keep(0.7), {}).kept, range(0, 10));
  for (const float score : {0.0f, 1.0f, -2.5f, kNan, kInf}) {
    const Selection fallback = select(std::vector<float>(100, score), keep(0.7), {});
    EXPECT_EQ(fallback.kept, head_and_last(100, 4, 70)) << score;
    EXPECT_TRUE(fallback.record.fallback_applied) << score;
  }
}

TEST(SelectTokens, OneBadScoreMakesTheStageFallBack) {
  std::mt19937 generator(2);
  for (const float bad : {kNan, kInf, -kInf}) {
    std::vector<float> scores = uniform(100, generator);
    scores[37] = bad;
    const Selection selection = select(scores, keep(0.5), {});
    EXPECT_EQ(selection.kept, head_and_last(100, 4, 50));
    EXPECT_TRUE(selection.record.fallback_applied);
    EXPECT_TRUE(std::isfinite(selection.record.scores_min));
    EXPECT_TRUE(std::isfinite(selection.record.scores_abs_sum));
  }
}

TEST(SelectTokens, KeepOneDropsNothing) {
  std::mt19937 generator(3);
  for (const auto& scores :
       {uniform(333, generator), std::vector<float>(333, 0.0f), std::vector<float>(333, kNan)}) {
    const Selection selection = select(scores, keep(1.0), {});
    EXPECT_EQ(selection.kept, range(0, 333));
    EXPECT_FALSE(selection.record.fallback_applied) << "nothing was chosen, by whatever rule";
    EXPECT_EQ(selection.record.tokens_pruned, 0);
  }
}

TEST(SelectTokens, OneTokenStays) {
  for (const float score : {0.0f, 1.0f, kNan}) {
    const std::vector<float> scores = {score};
    EXPECT_EQ(select(scores, keep(0.01), protecting(0, 0, 0.0)).kept, range(0, 1));
    EXPECT_EQ(select(scores, top_p(0.01), protecting(0, 0, 0.0)).kept, range(0, 1));
  }
}

TEST(SelectTokens, FillsTheRecord) {
  const std::vector<float> scores = {-1, 0.5f, 2, -0.25f};
  const StageRecord record = select(scores, keep(0.5), protecting(0, 0, 0.0)).record;
  EXPECT_EQ(record.layer, 5);
  EXPECT_EQ(record.input_seq_len, 4);
  EXPECT_EQ(record.computed_keep_k, 2);
  EXPECT_EQ(record.tokens_kept, 2);
  EXPECT_EQ(record.tokens_pruned, 2);
  EXPECT_EQ(record.pruning_ratio, 0.5);
  EXPECT_EQ(record.scores_min, -1.0);
  EXPECT_EQ(record.scores_max, 2.0);
  EXPECT_EQ(record.scores_abs_sum, 3.75);
  EXPECT_FALSE(record.fallback_applied);
  EXPECT_TRUE(std::regex_match(record.timestamp,
                               std::regex(R"(20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\d\.\d{3}Z)")))
      << record.timestamp;
}

TEST(SelectTokens, TheRecordAsJsonHasTheFieldsOfTheDesign) {
  const std::vector<float> scores(30, kNan);
  const nlohmann::json json = to_json(select(scores, keep(0.7), {}).record);
  for (const char* key :
       {"timestamp", "layer", "input_seq_len", "computed_keep_k", "tokens_kept", "tokens_pruned",
        "pruning_ratio", "scores_min", "scores_max", "scores_abs_sum", "fallback_applied"}) {
    EXPECT_TRUE(json.contains(key) && !json.at(key).is_null()) << key;
  }
  EXPECT_EQ(json.at("tokens_kept"), 21);
  EXPECT_EQ(json.dump().find("null"), std::string::npos) << "non-finite numbers are no JSON";
}

TEST(TopP, SmallestNumberThatHoldsTheMass) {
  const std::vector<float> scores = {1, 4, 2, 3};  // of 10
  const TokenPolicy none = protecting(0, 0, 0.0);
  EXPECT_EQ(select(scores, top_p(0.4), none).kept, (std::vector<std::int64_t>{1}));
  EXPECT_EQ(select(scores, top_p(0.41), none).kept, (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(select(scores, top_p(0.7), none).kept, (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(select(scores, top_p(0.9), none).kept, (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(select(scores, top_p(1.0), none).kept, range(0, 4));
}

TEST(TopP, NegativeScoresHoldNoMass) {
  const std::vector<float> scores = {-5, 1, -7, 1, 0.5f};
  EXPECT_EQ(select(scores, top_p(1.0), protecting(0, 0, 0.0)).kept, (std::vector<std::int64_t>{1, 3, 4}));
}

TEST(TopP, ProtectedTokensCount) {
  const std::vector<float> scores = {1, 4, 2, 3};
  // The first token is in and holds .1, the second .4: together half.
  EXPECT_EQ(select(scores, top_p(0.5), protecting(1, 0, 0.0)).kept, (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(select(scores, top_p(0.51), protecting(1, 0, 0.0)).kept, (std::vector<std::int64_t>{0, 1, 3}));
  EXPECT_EQ(select(scores, top_p(0.05), protecting(1, 1, 0.0)).kept, (std::vector<std::int64_t>{0, 3}));
}

TEST(TopP, WithoutMassFallsBackToRecency) {
  for (const float score : {0.0f, kNan, 7.0f}) {
    const Selection selection = select(std::vector<float>(100, score), top_p(0.7), {});
    EXPECT_EQ(selection.kept, head_and_last(100, 4, 70));
    EXPECT_TRUE(selection.record.fallback_applied);
  }
  const std::vector<float> negative = {-1, -2, -3, -4};
  const Selection selection = select(negative, top_p(0.5), protecting(0, 0, 0.0));
  EXPECT_EQ(selection.kept, range(2, 4));
  EXPECT_TRUE(selection.record.fallback_applied);
}

TEST(MaxPool, TakesTheHighestNeighbour) {
  std::vector<float> scores = {1, 5, 2, 0, 0, 3};
  max_pool(scores, 1);
  EXPECT_EQ(scores, (std::vector<float>{1, 5, 2, 0, 0, 3}));
  max_pool(scores, 3);
  EXPECT_EQ(scores, (std::vector<float>{5, 5, 5, 2, 3, 3}));
}

TEST(MaxPool, AgreesWithTheDefinition) {
  std::mt19937 generator(4);
  for (std::int64_t length = 0; length < 40; ++length) {
    const std::vector<float> input = uniform(length, generator);
    for (std::int64_t width = 1; width < 60; width += 2) {
      std::vector<float> pooled = input;
      max_pool(pooled, width);
      for (std::int64_t i = 0; i < length; ++i) {
        const auto begin = input.begin() + std::max<std::int64_t>(0, i - width / 2);
        const auto end = input.begin() + std::min(length, i + width / 2 + 1);
        EXPECT_EQ(pooled[i], *std::max_element(begin, end)) << length << " " << width << " " << i;
      }
    }
  }
}

TEST(MaxPool, NanIsNotLost) {
  std::vector<float> scores = {1, 2, kNan, 4, 5, 6, 7};
  max_pool(scores, 3);
  for (const std::size_t i : {1, 2, 3}) EXPECT_TRUE(std::isnan(scores[i])) << i;
  EXPECT_EQ(scores[0], 2);
  EXPECT_EQ(scores[5], 7);
}

TEST(MaxPool, HugeWidth) {
  std::vector<float> scores = {1, 2, 3};
  max_pool(scores, std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(scores, (std::vector<float>{3, 3, 3}));
}

TEST(MixRecency, MixesRanks) {
  const std::vector<float> scores = {30, 10, 20, 10};  // ranks 3, 0, 2, 1 of 3
  std::vector<float> mixed = scores;
  mix_recency(mixed, 0.0);
  EXPECT_EQ(mixed, scores);
  mix_recency(mixed, 0.25);
  const std::vector<double> expected = {0.75, 0.25 / 3, (0.75 * 2 + 0.25 * 2) / 3, (0.75 + 0.25 * 3) / 3};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(mixed[i], expected[i], 1e-6);
  mixed = scores;
  mix_recency(mixed, 1.0);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(mixed[i], static_cast<double>(i) / 3, 1e-6);
}

TEST(MixRecency, DegenerateScoresStayVisible) {
  for (const auto& scores : {std::vector<float>{2, 2, 2}, {1, kNan, 3}, {7}}) {
    std::vector<float> mixed = scores;
    mix_recency(mixed, 0.5);
    EXPECT_TRUE(degenerate(mixed));
  }
}

// Random lengths, ratios, protections and scores, some of them not finite.
class RandomCase {
 public:
  explicit RandomCase(unsigned seed) : generator_(seed) {
    length_ = pick(1, 300);
    policy_ = protecting(pick(0, 12), pick(0, 20), 0.01 * static_cast<double>(pick(0, 40)));
    scores_ = uniform(length_, generator_);
    const auto kind = pick(0, 5);
    if (kind == 0) scores_[static_cast<std::size_t>(pick(0, length_ - 1))] = pick(0, 1) == 0 ? kNan : -kInf;
    if (kind == 1) std::fill(scores_.begin(), scores_.end(), 0.25f);
    if (kind == 2) {
      for (float& score : scores_) score = std::round(score * 3);  // ties
    }
    const double share = 0.01 * static_cast<double>(pick(1, 100));
    stage_ = pick(0, 1) == 0 ? keep(share) : top_p(share);
  }

  void check() {
    const Selection selection = select(scores_, stage_, policy_);
    SCOPED_TRACE(::testing::Message() << "length " << length_ << ", " << to_json(selection.record).dump());
    EXPECT_EQ(selection.kept, select(scores_, stage_, policy_).kept);
    check_order(selection);
    check_count(selection);
    check_saliency(selection);
    check_mass(selection);
  }

 private:
  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(generator_);
  }
  bool is_protected(std::int64_t i) const {
    const auto share =
        static_cast<std::int64_t>(std::floor(policy_.protect_tail_share * static_cast<double>(length_)));
    return i < policy_.protect_head || i >= length_ - std::max(policy_.protect_tail_min, share);
  }
  static bool holds(const Selection& selection, std::int64_t i) {
    return std::binary_search(selection.kept.begin(), selection.kept.end(), i);
  }

  void check_order(const Selection& selection) const {
    ASSERT_FALSE(selection.kept.empty());
    EXPECT_GE(selection.kept.front(), 0);
    EXPECT_LT(selection.kept.back(), length_);
    EXPECT_EQ(std::adjacent_find(selection.kept.begin(), selection.kept.end(), std::greater_equal<>()),
              selection.kept.end());
    for (std::int64_t i = 0; i < length_; ++i) EXPECT_TRUE(!is_protected(i) || holds(selection, i)) << i;
  }

  void check_count(const Selection& selection) const {
    const auto kept = static_cast<std::int64_t>(selection.kept.size());
    if (!stage_.top_p) {
      EXPECT_EQ(kept, keep_count(length_, stage_.keep, policy_));
    }
    EXPECT_GE(kept, protected_count(length_, policy_));
    EXPECT_EQ(selection.record.tokens_kept, kept);
    EXPECT_EQ(selection.record.tokens_pruned, length_ - kept);
  }

  void check_saliency(const Selection& selection) const {
    const auto better = [&](std::int64_t a, std::int64_t b) {
      if (selection.record.fallback_applied || scores_[a] == scores_[b]) return a > b;
      return scores_[a] > scores_[b];
    };
    for (const std::int64_t a : selection.kept) {
      for (std::int64_t b = 0; b < length_ && !is_protected(a); ++b) {
        EXPECT_TRUE(holds(selection, b) || better(a, b)) << "kept " << a << ", dropped " << b;
      }
    }
  }

  // What is kept holds the mass, and without its least salient unprotected token it would not.
  void check_mass(const Selection& selection) const {
    if (!stage_.top_p || degenerate(scores_) || selection.record.fallback_applied) return;
    double total = 0.0, held = 0.0, least = kInf;
    for (std::int64_t i = 0; i < length_; ++i) {
      const double mass = std::max(0.0, double{scores_[i]});
      total += mass;
      if (holds(selection, i)) held += mass;
      if (holds(selection, i) && !is_protected(i)) least = std::min(least, mass);
    }
    EXPECT_GE(held, *stage_.top_p * total - 1e-6);
    const double without = least < kInf ? held - least : 0.0;
    EXPECT_LE(without, *stage_.top_p * total + 1e-6);
  }

  std::mt19937 generator_;
  std::int64_t length_ = 0;
  TokenPolicy policy_;
  Stage stage_;
  std::vector<float> scores_;
};

TEST(SelectTokens, KeepsItsPromisesOnRandomInput) {
  for (unsigned seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE(seed);
    RandomCase(seed).check();
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace winnow
