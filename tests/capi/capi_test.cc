// Calls the shared library as any program would: by its header alone.
#include <gtest/gtest.h>
#include <winnow/winnow.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr const char* kStages =
    R"({"version": 1, "tokens": {"stages": [{"layer": 2, "keep": 0.5}, {"layer": 4, "keep": 0.5}],
  "protect_tail": {"min": 4, "share": 0.0}, "protect_head": 1}})";

template <class Struct>
Struct empty() {
  Struct value;
  WINNOW_INIT(value);
  return value;
}

class CapiTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto options = empty<winnow_engine_options>();
    options.model = WINNOW_TEST_DATA "/models/tiny-llama";
    options.precision = "f32";
    options.threads = 1;
    ASSERT_EQ(winnow_engine_open(&options, &engine_), WINNOW_OK) << winnow_error_message();
  }
  static void TearDownTestSuite() { winnow_engine_close(engine_); }

  CapiTest() { open_session(&session_); }
  ~CapiTest() override { winnow_session_close(session_); }

  static void open_session(winnow_session** session) {
    ASSERT_EQ(winnow_session_open(engine_, session), WINNOW_OK) << winnow_error_message();
  }
  static std::vector<std::int32_t> some_tokens(int count) {
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < count; ++i) tokens.push_back((i * 37 + 11) % 300);
    return tokens;
  }
  static winnow_status prefill(winnow_session* session, const std::vector<std::int32_t>& tokens,
                               const winnow_policy* policy = nullptr) {
    return winnow_session_prefill(session, tokens.data(), tokens.size(), policy, nullptr);
  }
  static std::vector<float> logits(winnow_session* session) {
    const float* values = nullptr;
    std::size_t count = 0;
    EXPECT_EQ(winnow_session_logits(session, &values, &count), WINNOW_OK);
    return {values, values + count};
  }

  static winnow_engine* engine_;
  winnow_session* session_ = nullptr;
};
winnow_engine* CapiTest::engine_ = nullptr;

TEST_F(CapiTest, VersionsAreTheHeaders) {
  EXPECT_STREQ(winnow_version(), WINNOW_VERSION);
  EXPECT_EQ(winnow_abi_version(), WINNOW_ABI_VERSION);
}

TEST_F(CapiTest, DecodingATokenGivesWhatReadingItGives) {
  const std::vector<std::int32_t> tokens = some_tokens(12);
  ASSERT_EQ(prefill(session_, tokens), WINNOW_OK) << winnow_error_message();
  const std::vector<float> expected = logits(session_);
  winnow_session* steps = nullptr;
  open_session(&steps);
  ASSERT_EQ(prefill(steps, {tokens.begin(), tokens.end() - 1}), WINNOW_OK);
  ASSERT_EQ(winnow_session_decode(steps, tokens.back()), WINNOW_OK);
  const std::vector<float> found = logits(steps);
  winnow_session_close(steps);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-3) << i;
}

TEST_F(CapiTest, StagesSayWhichTokensGoOn) {
  winnow_policy* policy = nullptr;
  ASSERT_EQ(winnow_policy_parse(engine_, kStages, &policy), WINNOW_OK) << winnow_error_message();
  const std::vector<std::int32_t> tokens = some_tokens(40);
  ASSERT_EQ(prefill(session_, tokens, policy), WINNOW_OK) << winnow_error_message();
  std::size_t stages = 0;
  ASSERT_EQ(winnow_session_stages(session_, &stages), WINNOW_OK);
  ASSERT_EQ(stages, 2u);
  auto stage = empty<winnow_stage>();
  ASSERT_EQ(winnow_session_stage(session_, 1, &stage), WINNOW_OK);
  EXPECT_EQ(stage.layer, 4);
  EXPECT_EQ(stage.tokens_before, 20);
  ASSERT_EQ(stage.tokens_kept, 10);
  EXPECT_EQ(stage.kept[0], 0);
  EXPECT_EQ(stage.kept[9], 39);
  auto stats = empty<winnow_stats>();
  ASSERT_EQ(winnow_session_stats(session_, &stats), WINNOW_OK);
  EXPECT_EQ(stats.tokens, 40);
  EXPECT_EQ(stats.kept_tokens, 10);
  EXPECT_LT(stats.avgtok, 1);
  EXPECT_EQ(winnow_session_stage(session_, 2, &stage), WINNOW_BAD_ARGUMENT);
  winnow_policy_free(policy);
}

TEST_F(CapiTest, AFailedPrefillLeavesTheStagesOfTheOneBefore) {
  winnow_policy* policy = nullptr;
  ASSERT_EQ(winnow_policy_parse(engine_, kStages, &policy), WINNOW_OK);
  ASSERT_EQ(prefill(session_, some_tokens(40), policy), WINNOW_OK);
  winnow_policy_free(policy);
  auto options = empty<winnow_prefill_options>();
  options.progress = [](double, void*) { return 1; };
  const std::vector<std::int32_t> tokens = some_tokens(8);
  EXPECT_EQ(winnow_session_prefill(session_, tokens.data(), tokens.size(), nullptr, &options),
            WINNOW_CANCELLED);
  std::size_t stages = 0;
  ASSERT_EQ(winnow_session_stages(session_, &stages), WINNOW_OK);
  EXPECT_EQ(stages, 2u);
  auto stats = empty<winnow_stats>();
  ASSERT_EQ(winnow_session_stats(session_, &stats), WINNOW_OK);
  EXPECT_EQ(stats.tokens, 40);
}

TEST_F(CapiTest, TextGoesToTokensAndBack) {
  const std::string text = "Long prompts are cheap";
  std::int32_t* tokens = nullptr;
  std::size_t count = 0, bytes = 0;
  ASSERT_EQ(winnow_tokenize(engine_, text.data(), text.size(), 0, &tokens, &count), WINNOW_OK);
  char* back = nullptr;
  ASSERT_EQ(winnow_detokenize(engine_, tokens, count, &back, &bytes), WINNOW_OK);
  EXPECT_EQ(std::string(back, bytes), text);
  EXPECT_EQ(back[bytes], '\0');
  winnow_free(back);
  winnow_free(tokens);
}

TEST_F(CapiTest, AnAnswerIsReadAndItsCallbackHearsAllOfIt) {
  ASSERT_EQ(prefill(session_, some_tokens(12)), WINNOW_OK);
  auto options = empty<winnow_generate_options>();
  options.max_new_tokens = 5;
  std::string heard;
  options.user_data = &heard;
  options.on_token = [](std::int32_t, const char* text, std::size_t size, void* user_data) {
    static_cast<std::string*>(user_data)->append(text, size);
    return 0;
  };
  auto answer = empty<winnow_answer>();
  ASSERT_EQ(winnow_generate(session_, &options, &answer), WINNOW_OK) << winnow_error_message();
  EXPECT_GT(answer.count, 0u);
  EXPECT_LE(answer.count, 5u);
  EXPECT_EQ(std::string(answer.text, answer.text_bytes), heard);
  auto stats = empty<winnow_stats>();
  ASSERT_EQ(winnow_session_stats(session_, &stats), WINNOW_OK);
  EXPECT_EQ(stats.tokens, 12 + static_cast<std::int64_t>(answer.count));
  winnow_free(answer.tokens);
  winnow_free(answer.text);
}

TEST_F(CapiTest, PoliciesAreMeasuredBesideDense) {
  winnow_policy *dense = nullptr, *stages = nullptr;
  ASSERT_EQ(winnow_policy_parse(engine_, "dense", &dense), WINNOW_OK);
  ASSERT_EQ(winnow_policy_parse(engine_, kStages, &stages), WINNOW_OK);
  const winnow_policy* const policies[] = {stages, dense, stages};
  winnow_quality results[3];
  for (winnow_quality& result : results) WINNOW_INIT(result);
  auto options = empty<winnow_evaluate_options>();
  options.length = 300;
  options.windows = 2;
  std::string text;
  for (int i = 0; i < 500; ++i)
    text += i % 3 == 0 ? "wind and corn. " : "the old mill " + std::to_string(i) + " ";
  char* report = nullptr;
  ASSERT_EQ(winnow_evaluate(engine_, policies, 3, text.data(), text.size(), &options, results, &report),
            WINNOW_OK)
      << winnow_error_message();
  EXPECT_EQ(results[1].kl, 0);
  EXPECT_GT(results[0].kl, 0);
  EXPECT_EQ(results[0].kl, results[2].kl);
  EXPECT_EQ(results[0].windows, 2);
  EXPECT_TRUE(std::isnan(results[0].kl_low) && std::isnan(results[0].dce_high));  // two are too few
  EXPECT_NE(std::strstr(report, "winnow.evaluation/1"), nullptr);
  winnow_free(report);
  options.windows = 5;
  ASSERT_EQ(winnow_evaluate(engine_, policies, 1, text.data(), text.size(), &options, results, nullptr),
            WINNOW_OK);
  EXPECT_LE(results[0].kl_low, results[0].kl);
  EXPECT_GE(results[0].kl_high, results[0].kl);
  winnow_policy_free(dense);
  winnow_policy_free(stages);
}

// A program of an older header has a shorter struct, one of a newer header a longer one.
TEST_F(CapiTest, StructsOfOtherVersionsAreUnderstood) {
  ASSERT_EQ(prefill(session_, some_tokens(12)), WINNOW_OK);
  auto stats = empty<winnow_stats>();
  stats.size = offsetof(winnow_stats, room);
  stats.room = -7;
  ASSERT_EQ(winnow_session_stats(session_, &stats), WINNOW_OK);
  EXPECT_EQ(stats.tokens, 12);
  EXPECT_EQ(stats.room, -7);
  struct {
    winnow_evaluate_options known;
    std::int64_t later;
  } newer{};
  newer.known.size = sizeof(newer);
  newer.known.length = 300;
  winnow_policy* policy = nullptr;
  ASSERT_EQ(winnow_policy_parse(engine_, "dense", &policy), WINNOW_OK);
  const winnow_policy* const policies[] = {policy};
  auto result = empty<winnow_quality>();
  const auto evaluate = [&] {
    return winnow_evaluate(engine_, policies, 1, "x", 1, &newer.known, &result, nullptr);
  };
  EXPECT_EQ(evaluate(), WINNOW_BAD_ARGUMENT);  // the text is too short, which it got as far as seeing
  newer.later = 1;
  EXPECT_EQ(evaluate(), WINNOW_UNSUPPORTED) << winnow_error_message();
  winnow_policy_free(policy);
}

TEST_F(CapiTest, AnAnswersStructHasAtLeastItsFirstVersionsFields) {
  ASSERT_EQ(prefill(session_, some_tokens(12)), WINNOW_OK);
  auto options = empty<winnow_generate_options>();
  options.max_new_tokens = 1;
  auto answer = empty<winnow_answer>();
  answer.size = offsetof(winnow_answer, decode_ms);
  EXPECT_EQ(winnow_generate(session_, &options, &answer), WINNOW_BAD_ARGUMENT);
  struct {
    winnow_answer known;
    std::int64_t later;
  } newer{{}, -7};
  newer.known.size = sizeof(newer);
  ASSERT_EQ(winnow_generate(session_, &options, &newer.known), WINNOW_OK) << winnow_error_message();
  EXPECT_EQ(newer.later, -7);
  winnow_free(newer.known.tokens);
  winnow_free(newer.known.text);
}

TEST_F(CapiTest, ResultsWithoutASizeAreSeenBeforeTheRun) {
  winnow_policy* policy = nullptr;
  ASSERT_EQ(winnow_policy_parse(engine_, kStages, &policy), WINNOW_OK);
  const winnow_policy* const policies[] = {policy, policy};
  winnow_quality results[2];
  for (winnow_quality& result : results) WINNOW_INIT(result);
  results[1].size = 0;
  EXPECT_EQ(winnow_evaluate(engine_, policies, 2, "x", 1, nullptr, results, nullptr), WINNOW_BAD_ARGUMENT);
  EXPECT_NE(std::strstr(winnow_error_message(), "size"), nullptr) << winnow_error_message();
  winnow_policy_free(policy);
}

TEST_F(CapiTest, MoreRoomThanTheContextIsTheContexts) {
  auto options = empty<winnow_prefill_options>();
  options.reserve_tokens = INT64_MAX;
  const std::vector<std::int32_t> tokens = some_tokens(12);
  EXPECT_EQ(winnow_session_prefill(session_, tokens.data(), tokens.size(), nullptr, &options), WINNOW_OK)
      << winnow_error_message();
}

TEST_F(CapiTest, ACallbackMayFreeOtherSessions) {
  winnow_session* other = nullptr;
  open_session(&other);
  auto options = empty<winnow_prefill_options>();
  options.user_data = &other;
  options.progress = [](double, void* user_data) {
    auto** given = static_cast<winnow_session**>(user_data);
    winnow_session_close(*given);
    *given = nullptr;
    return 0;
  };
  const std::vector<std::int32_t> tokens = some_tokens(8);
  EXPECT_EQ(winnow_session_prefill(session_, tokens.data(), tokens.size(), nullptr, &options), WINNOW_OK);
  EXPECT_EQ(other, nullptr);
}

TEST_F(CapiTest, CachesInEightBits) {
  auto options = empty<winnow_engine_options>();
  options.model = WINNOW_TEST_DATA "/models/tiny-llama";
  options.precision = "f32";
  options.threads = 1;
  options.kv = "q8";
  winnow_engine* engine = nullptr;
  ASSERT_EQ(winnow_engine_open(&options, &engine), WINNOW_OK) << winnow_error_message();
  winnow_session* session = nullptr;
  ASSERT_EQ(winnow_session_open(engine, &session), WINNOW_OK);
  const auto tokens = some_tokens(60);
  ASSERT_EQ(prefill(session, tokens), WINNOW_OK);
  ASSERT_EQ(prefill(session_, tokens), WINNOW_OK);
  EXPECT_EQ(logits(session), logits(session_));
  auto q8 = empty<winnow_stats>(), same = q8;
  ASSERT_EQ(winnow_session_stats(session, &q8), WINNOW_OK);
  ASSERT_EQ(winnow_session_stats(session_, &same), WINNOW_OK);
  EXPECT_LT(q8.kv_bytes, same.kv_bytes * 6 / 10);
  winnow_session_close(session);
  winnow_engine_close(engine);
  options.kv = "q4";
  EXPECT_EQ(winnow_engine_open(&options, &engine), WINNOW_BAD_ARGUMENT);
  EXPECT_NE(std::strstr(winnow_error_message(), "q4"), nullptr) << winnow_error_message();
}

TEST_F(CapiTest, ErrorsNameWhatIsWrong) {
  auto options = empty<winnow_engine_options>();
  winnow_engine* other = nullptr;
  options.model = "/nothing/there.gguf";
  EXPECT_EQ(winnow_engine_open(&options, &other), WINNOW_IO);
  EXPECT_NE(std::strstr(winnow_error_message(), "there.gguf"), nullptr) << winnow_error_message();
  options.precision = "fp4";
  EXPECT_EQ(winnow_engine_open(&options, &other), WINNOW_BAD_ARGUMENT);
  options.size = 0;
  EXPECT_EQ(winnow_engine_open(&options, &other), WINNOW_BAD_ARGUMENT);
  EXPECT_EQ(winnow_engine_open(nullptr, &other), WINNOW_BAD_ARGUMENT);
  EXPECT_EQ(other, nullptr);
  winnow_policy* policy = nullptr;
  EXPECT_EQ(winnow_policy_parse(engine_, "{\"version\": 1, \"tokens\": {\"stage\": []}}", &policy),
            WINNOW_BAD_FORMAT);
  EXPECT_EQ(prefill(session_, {1, 1 << 20}), WINNOW_BAD_ARGUMENT);
  EXPECT_EQ(prefill(session_, {}), WINNOW_BAD_ARGUMENT);
  EXPECT_EQ(winnow_session_decode(session_, 1), WINNOW_BAD_ARGUMENT);
}

TEST_F(CapiTest, ThreadsTakeTurnsAndErrorsStayWithTheirThread) {
  const std::vector<std::int32_t> tokens = some_tokens(20);
  ASSERT_EQ(prefill(session_, tokens), WINNOW_OK);
  const std::vector<float> expected = logits(session_);
  EXPECT_EQ(winnow_session_decode(session_, -1), WINNOW_BAD_ARGUMENT);
  const std::string mine = winnow_error_message();
  std::vector<std::vector<float>> found(4);
  std::vector<std::thread> threads;
  for (std::vector<float>& result : found) {
    threads.emplace_back([&] {
      winnow_session* session = nullptr;
      open_session(&session);
      EXPECT_EQ(prefill(session, tokens), WINNOW_OK);
      result = logits(session);
      EXPECT_EQ(winnow_session_decode(session, 1 << 20), WINNOW_BAD_ARGUMENT);
      winnow_session_close(session);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& result : found) EXPECT_EQ(result, expected);
  EXPECT_EQ(winnow_error_message(), mine);
}

TEST_F(CapiTest, ACallbackMayNotUseItsEngine) {
  auto options = empty<winnow_prefill_options>();
  winnow_status inside = WINNOW_OK;
  struct Both {
    winnow_session* session;
    winnow_status* status;
  } both{session_, &inside};
  options.user_data = &both;
  options.progress = [](double, void* user_data) {
    const auto* given = static_cast<Both*>(user_data);
    *given->status = winnow_session_decode(given->session, 1);
    return 0;
  };
  const std::vector<std::int32_t> tokens = some_tokens(8);
  EXPECT_EQ(winnow_session_prefill(session_, tokens.data(), tokens.size(), nullptr, &options), WINNOW_OK);
  EXPECT_EQ(inside, WINNOW_BAD_ARGUMENT);
}

TEST_F(CapiTest, SessionsOutliveTheEnginesHandle) {
  auto options = empty<winnow_engine_options>();
  options.model = WINNOW_TEST_DATA "/models/tiny-llama.gguf";
  options.threads = 1;
  winnow_engine* other = nullptr;
  ASSERT_EQ(winnow_engine_open(&options, &other), WINNOW_OK) << winnow_error_message();
  winnow_session* session = nullptr;
  ASSERT_EQ(winnow_session_open(other, &session), WINNOW_OK);
  winnow_engine_close(other);
  EXPECT_EQ(prefill(session, some_tokens(4)), WINNOW_OK);
  winnow_session_close(session);
}

}  // namespace
