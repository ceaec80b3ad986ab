// Attention of single queries: against the reference, and the same bits for any number of threads and of
// other conversations in the batch.
#include "support/single_query.h"

namespace winnow::testing {
namespace {

struct Query : SingleQuery<FilledCache> {
  Query(Backend& backend, const HeadShape& shape, std::int64_t rows, std::int64_t at, float deviation = 1.0f,
        std::int64_t window_in = 0)
      : SingleQuery(backend, shape, at, deviation, window_in, rows, static_cast<unsigned>(rows)) {}
};

void compare(const HeadShape& shape, std::int64_t rows, std::int64_t at, float deviation = 1.0f,
             std::int64_t window = 0) {
  SCOPED_TRACE(::testing::Message() << rows << " rows, query at " << at << ", window " << window);
  const auto reference = make_reference_backend(Precision::kBF16);
  Query expected(*reference, shape, rows, at, deviation, window);
  reference->attention(expected.params());
  std::string bits;
  for (const int threads : {1, 2, 3}) {
    const auto cpu = make_cpu_backend(Precision::kBF16, threads);
    Query actual(*cpu, shape, rows, at, deviation, window);
    cpu->attention(actual.params());
    expect_close(actual.out, expected.out, kAttentionBf16);
    if (threads == 1) bits = actual.out.row_bits(0);
    EXPECT_EQ(actual.out.row_bits(0), bits) << threads << " threads";
  }
}

TEST(DecodeAttention, AgreesWithTheReferenceAtEveryLength) {
  for (const std::int64_t rows : {1, 2, 15, 16, 17, 31, 33, 127, 128, 129, 256, 300, 1000}) {
    compare({9, 3, 64}, rows, rows - 1);
  }
  compare({9, 3, 64}, 300, 150);  // the rows behind the query's own are not seen
}

TEST(DecodeAttention, AgreesWithTheReferenceForEveryShape) {
  for (const std::int64_t dim : {2, 16, 48, 64, 80, 100, 128, 256, 512}) compare({4, 2, dim}, 140, 139);
  for (const std::int64_t group : {1, 2, 3, 4, 5, 7, 8, 9}) compare({2 * group, 2, 64}, 140, 139);
}

TEST(DecodeAttention, ASlidingWindowEndsAtItsFirstRow) {
  for (const std::int64_t window : {1, 2, 127, 128, 129, 130, 299, 300, 400}) {
    compare({9, 3, 64}, 300, 299, 1.0f, window);
  }
}

TEST(DecodeAttention, SurvivesLargeScores) { compare({9, 3, 64}, 300, 299, 100.0f); }

TEST(DecodeAttention, ABatchIsItsQueriesOneByOne) {
  expect_a_batch_is_its_queries<Query>({1, 700, 20, 129, 128});
}

}  // namespace
}  // namespace winnow::testing
