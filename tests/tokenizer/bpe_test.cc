#include "tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <random>

#include "core/error.h"
#include "tokenizer/byte_alphabet.h"

namespace winnow {
namespace {

std::vector<std::string> byte_spellings() {
  std::vector<std::string> spellings;
  for (int byte = 0; byte < 256; ++byte)
    spellings.emplace_back(alphabet_char(static_cast<unsigned char>(byte)));
  return spellings;
}

struct Fixture {
  std::shared_ptr<const Vocabulary> vocabulary;
  std::vector<Merge> merges;

  // Rules "left right"; each makes its result a token.
  explicit Fixture(const std::vector<std::string>& rules) {
    std::vector<std::string> spellings = byte_spellings();
    for (const std::string& rule : rules) {
      const std::size_t space = rule.find(' ');
      const std::string joined = rule.substr(0, space) + rule.substr(space + 1);
      if (std::find(spellings.begin(), spellings.end(), joined) == spellings.end())
        spellings.push_back(joined);
    }
    vocabulary = std::make_shared<const Vocabulary>(spellings, "test");
    for (const std::string& rule : rules)
      merges.push_back(resolve_merge(*vocabulary, rule, merges.size(), "test"));
  }
  Bpe bpe(const BpeOptions& options = {}) const { return Bpe(vocabulary, merges, options, "test"); }
};

std::vector<TokenId> encode(const Bpe& bpe, const std::string& word) {
  WordCache cache;
  std::vector<TokenId> ids, again;
  bpe.encode(word, cache, ids);
  bpe.encode(word, cache, again);
  EXPECT_EQ(ids, again) << "a cached word differs";
  return ids;
}

std::string join(const Fixture& fixture, const std::vector<TokenId>& ids) {
  std::string text;
  for (const TokenId id : ids) text += fixture.vocabulary->spelling(id) + "|";
  return text;
}

// The definition: join the leftmost of the pairs with the lowest rank, again and again.
std::vector<TokenId> merge_by_definition(const Fixture& fixture, const std::string& word) {
  std::map<std::pair<TokenId, TokenId>, std::size_t> ranks;
  for (std::size_t i = 0; i < fixture.merges.size(); ++i)
    ranks[{fixture.merges[i].left, fixture.merges[i].right}] = i;
  std::vector<TokenId> ids;
  for (const char c : word)
    ids.push_back(fixture.vocabulary->find(alphabet_char(static_cast<unsigned char>(c))));
  while (true) {
    std::size_t best = fixture.merges.size(), at = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = ranks.find({ids[i], ids[i + 1]});
      if (found != ranks.end() && found->second < best) best = found->second, at = i;
    }
    if (best == fixture.merges.size()) return ids;
    ids[at] = fixture.merges[best].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(Bpe, LowestRankThenLeftmost) {
  const Fixture fixture({"b c", "a b", "ab c"});
  EXPECT_EQ(join(fixture, encode(fixture.bpe(), "abc")), "a|bc|");
  EXPECT_EQ(join(fixture, encode(fixture.bpe(), "ab")), "ab|");
  const Fixture runs({"a a", "aa a"});
  EXPECT_EQ(join(runs, encode(runs.bpe(), "aaaaa")), "aa|aaa|");
  EXPECT_TRUE(encode(fixture.bpe(), "").empty());
}

TEST(Bpe, ShortAndLongWordsFollowTheDefinition) {
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> rules, tokens = {"a", "b", "c"};
    for (int i = 0; i < 25; ++i) {
      const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
      rules.push_back(left + " " + right);
      tokens.push_back(left + right);
    }
    const Fixture fixture(rules);
    const Bpe bpe = fixture.bpe();
    for (const std::size_t length : {1, 2, 7, 30, 47, 48, 49, 50, 64, 300}) {
      std::string word;
      for (std::size_t i = 0; i < length; ++i) word += static_cast<char>('a' + random() % 3);
      ASSERT_EQ(encode(bpe, word), merge_by_definition(fixture, word)) << word;
    }
  }
}

TEST(Bpe, MegabyteRunsTakeNoQuadraticTime) {
  const Fixture fixture({"a a", "aa aa", "aaaa aaaa", "a b", "ab ab"});
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(encode(fixture.bpe(), std::string(1 << 20, 'a')).size(), std::size_t{1 << 17});
  // Quadratic merging would take minutes; the bound is wide for sanitizers and busy machines.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST(Bpe, IgnoreMergesTakesWholeTokens) {
  Fixture fixture({"a b", "ab c", "x y"});
  std::vector<std::string> spellings = byte_spellings();
  for (const char* token : {"ab", "abc", "xy", "abcxy"}) spellings.emplace_back(token);
  fixture.vocabulary = std::make_shared<const Vocabulary>(spellings, "test");
  EXPECT_EQ(join(fixture, encode(fixture.bpe(), "abcxy")), "abc|xy|");
  EXPECT_EQ(join(fixture, encode(fixture.bpe({.ignore_merges = true}), "abcxy")), "abcxy|");
}

TEST(Bpe, BytesWithoutTokens) {
  std::vector<std::string> spellings = byte_spellings();
  std::erase(spellings, std::string(alphabet_char(1)));
  spellings.emplace_back("?!");
  const auto vocabulary = std::make_shared<const Vocabulary>(spellings, "test");
  const TokenId unknown = vocabulary->find("?!"), a = vocabulary->find("a");
  const std::string word = "a\x01\x01";
  EXPECT_EQ(encode(Bpe(vocabulary, {}, {}, "test"), word), (std::vector<TokenId>{a}));
  EXPECT_EQ(encode(Bpe(vocabulary, {}, {.unknown = unknown}, "test"), word),
            (std::vector<TokenId>{a, unknown, unknown}));
  EXPECT_EQ(encode(Bpe(vocabulary, {}, {.unknown = unknown, .fuse_unknown = true}, "test"), word),
            (std::vector<TokenId>{a, unknown}));
}

TEST(Bpe, BadVocabularies) {
  const auto error_of = [](std::vector<std::string> spellings) -> std::string {
    try {
      const auto vocabulary = std::make_shared<const Vocabulary>(std::move(spellings), "some/file");
      Bpe(vocabulary, {}, {}, "some/file");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadFormat);
      return error.what();
    }
    return "";
  };
  std::vector<std::string> without_e = byte_spellings(), twice = byte_spellings();
  std::erase(without_e, "e");
  twice.emplace_back("e");
  EXPECT_EQ(error_of(without_e), "some/file: the vocabulary has no token for the byte 0x65 ('e')");
  EXPECT_EQ(error_of(twice), "some/file: the tokens 101 and 256 are both spelled 'e'");
  EXPECT_EQ(error_of({}), "some/file: the vocabulary has no tokens");
  EXPECT_EQ(error_of(byte_spellings()), "");
}

TEST(ByteAlphabet, RoundTrips) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto c = static_cast<unsigned char>(byte);
    EXPECT_EQ(alphabet_bytes(alphabet_char(c)), std::string(1, static_cast<char>(c)));
  }
  EXPECT_EQ(alphabet_char(' '), "\xC4\xA0");
  EXPECT_EQ(alphabet_bytes("\xE6\xBC\xA2"), std::nullopt);
  EXPECT_EQ(alphabet_bytes("a b"), std::nullopt);
}

}  // namespace
}  // namespace winnow
