#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "core/error.h"

namespace winnow {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(Sampler, GreedyTakesTheHighestAndTheLowestIdAmongEquals) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 2}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{2, 5, 5, 5}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{0, 0}), 0);
  EXPECT_EQ(sampler.sample(std::vector<float>{-kInf, -3}), 1);
}

TEST(Sampler, LogitsThatOverflowedAreErrors) {
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature});
    EXPECT_THROW(sampler.sample(std::vector<float>{1, kNan, 2}), Error);
    EXPECT_THROW(sampler.sample(std::vector<float>{kNan}), Error);
    EXPECT_THROW(sampler.sample(std::vector<float>{1, kInf}), Error);
    EXPECT_THROW(sampler.sample(std::vector<float>{-kInf, -kInf}), Error);
    EXPECT_THROW(sampler.sample(std::vector<float>{}), Error);
  }
}

TEST(Sampler, OptionsOutOfRangeAreErrors) {
  EXPECT_THROW(Sampler({.temperature = -1}), Error);
  EXPECT_THROW(Sampler({.temperature = std::nan("")}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 0}), Error);
  EXPECT_THROW(Sampler({.top_p = 1.5}), Error);
}

TEST(Sampler, SeedDecides) {
  const std::vector<float> logits{1, 1.5, 0.5, 2, 1};
  const auto draw = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<TokenId> tokens;
    for (int i = 0; i < 20; ++i) tokens.push_back(sampler.sample(logits));
    return tokens;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

// The C++ standard fixes mt19937_64's output (its 10,000th value of the default seed is in the text), so
// these hold everywhere.
TEST(Sampler, UniformComesFromTheGeneratorsBits) {
  const std::vector<float> even(1000, 0.0f);
  Sampler sampler({.temperature = 1, .seed = 5489});
  std::mt19937_64 random(5489);
  for (int i = 0; i < 100; ++i) {
    const auto expected = static_cast<TokenId>(static_cast<double>(random() >> 11) * 0x1p-53 * 1000);
    EXPECT_NEAR(sampler.sample(even), expected, 1);
  }
}

std::map<TokenId, double> frequencies(const SamplerOptions& options, const std::vector<float>& logits) {
  constexpr int kDraws = 20000;
  Sampler sampler(options);
  std::map<TokenId, double> shares;
  for (int i = 0; i < kDraws; ++i) shares[sampler.sample(logits)] += 1.0 / kDraws;
  return shares;
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits{0, std::log(2.0f), std::log(5.0f), -kInf};
  const auto plain = frequencies({.temperature = 1, .seed = 3}, logits);
  EXPECT_NEAR(plain.at(0), 1.0 / 8, 0.01);
  EXPECT_NEAR(plain.at(1), 2.0 / 8, 0.012);
  EXPECT_NEAR(plain.at(2), 5.0 / 8, 0.012);
  EXPECT_FALSE(plain.contains(3));
  const auto sharper = frequencies({.temperature = 0.5, .seed = 3}, logits);  // squares: 1, 4, 25
  EXPECT_NEAR(sharper.at(2), 25.0 / 30, 0.012);
}

TEST(Sampler, TopKAndTopPCut) {
  const std::vector<float> logits{std::log(1.0f), std::log(4.0f), std::log(3.0f),
                                  std::log(2.0f)};  // .1 .4 .3 .2
  const auto support = [&](const SamplerOptions& options) {
    std::set<TokenId> tokens;
    for (const auto& [token, share] : frequencies(options, logits)) tokens.insert(token);
    return tokens;
  };
  EXPECT_EQ(support({.temperature = 1, .top_k = 1}), (std::set<TokenId>{1}));
  EXPECT_EQ(support({.temperature = 1, .top_k = 2}), (std::set<TokenId>{1, 2}));
  EXPECT_EQ(support({.temperature = 1, .top_k = 100}), (std::set<TokenId>{0, 1, 2, 3}));
  EXPECT_EQ(support({.temperature = 1, .top_p = 0.3}), (std::set<TokenId>{1}));
  EXPECT_EQ(support({.temperature = 1, .top_p = 0.65}), (std::set<TokenId>{1, 2}));
  EXPECT_EQ(support({.temperature = 1, .top_p = 0.85}), (std::set<TokenId>{1, 2, 3}));
  // The share is of what top_k left: of tokens 1, 2 and 3 the first two hold 7/9.
  EXPECT_EQ(support({.temperature = 1, .top_k = 3, .top_p = 0.75}), (std::set<TokenId>{1, 2}));
  const auto shares = frequencies({.temperature = 1, .top_k = 2}, logits);
  EXPECT_NEAR(shares.at(1), 4.0 / 7, 0.015);
}

TEST(Sampler, TopKTakesLowIdsAmongEquals) {
  const std::vector<float> even(50, 1.0f);
  for (const auto& [token, share] : frequencies({.temperature = 1, .top_k = 3}, even)) EXPECT_LT(token, 3);
}

}  // namespace
}  // namespace winnow
