// Exchanges between ranks of one process.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "ranks/shared_ranks.h"

namespace winnow {
namespace {

void on_ranks(int size, const std::function<void(Communicator&)>& body) {
  const auto region = std::make_shared<SharedRegion>(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] { body(*join_region(region, rank)); });
  }
  for (std::thread& thread : threads) thread.join();
}

class Ranks : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, Ranks, testing::Values(1, 2, 3));

TEST_P(Ranks, ABroadcastReachesAll) {
  on_ranks(GetParam(), [](Communicator& ranks) {
    for (int root = 0; root < ranks.size(); ++root) {
      // More than a slot holds, and nothing.
      for (const std::size_t count : {std::size_t{0}, std::size_t{7}, SharedRegion::kSlotBytes / 4 + 3}) {
        std::vector<std::int32_t> values(ranks.rank() == root ? count : 1, ranks.rank());
        ranks.share(values, root);
        EXPECT_EQ(values, std::vector<std::int32_t>(count, root));
      }
    }
  });
}

TEST_P(Ranks, SumsAndMaximaAreTheSameEverywhere) {
  on_ranks(GetParam(), [](Communicator& ranks) {
    const auto count = SharedRegion::kSlotBytes / 4 + 5;
    std::vector<float> sums(count), largest(count), expected_sums(count, 0.0f);
    const auto value = [&](int rank, std::size_t i) {
      return std::sin(static_cast<float>(i)) * static_cast<float>(rank + 1);
    };
    for (std::size_t i = 0; i < count; ++i) {
      sums[i] = largest[i] = value(ranks.rank(), i);
      for (int rank = 0; rank < ranks.size(); ++rank) expected_sums[i] += value(rank, i);
    }
    if (ranks.rank() == ranks.size() - 1) largest[3] = std::numeric_limits<float>::quiet_NaN();
    ranks.sum(sums);
    ranks.maximum(largest);
    EXPECT_EQ(sums, expected_sums);  // in the order of the ranks
    EXPECT_TRUE(std::isnan(largest[3]));
    EXPECT_EQ(largest[1], value(ranks.size() - 1, 1));  // sin(1) > 0
    EXPECT_EQ(largest[4], value(0, 4));                 // sin(4) < 0
  });
}

TEST_P(Ranks, WhatEachHasIsGatheredInOrder) {
  on_ranks(GetParam(), [](Communicator& ranks) {
    std::vector<int> expected(static_cast<std::size_t>(ranks.size()));
    std::iota(expected.begin(), expected.end(), 10);
    EXPECT_EQ(ranks.gather(10 + ranks.rank()), expected);
  });
}

TEST_P(Ranks, ATransferTouchesOneRankOnly) {
  on_ranks(GetParam(), [](Communicator& ranks) {
    const int to = ranks.size() - 1;
    std::vector<int> values(3, ranks.rank());
    ranks.transfer(std::as_writable_bytes(std::span(values)), 0, to);
    EXPECT_EQ(values, std::vector<int>(3, ranks.rank() == to ? 0 : ranks.rank()));
  });
}

TEST(StoppedRanks, SayWhy) {
  on_ranks(3, [](Communicator& ranks) {
    if (ranks.rank() == 1) return ranks.stop("rank 1: no more paper");
    try {
      ranks.barrier();
      ADD_FAILURE() << "nobody told rank " << ranks.rank();
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "rank 1: no more paper");
    }
  });
}

TEST(StoppedRanks, TheFirstFailureIsTheCause) {
  const auto region = std::make_shared<SharedRegion>(3);
  const auto first = join_region(region, 1), second = join_region(region, 2), other = join_region(region, 0);
  EXPECT_EQ(other->failure(), "");
  first->stop("rank 1: no more paper");
  second->stop("rank 2: rank 1 is gone");
  for (const auto& ranks : {first.get(), second.get(), other.get()}) {
    EXPECT_EQ(ranks->failure(), "rank 1: no more paper");
  }
  EXPECT_THROW(other->barrier(), Error);
}

TEST(StoppedRanks, EndTheOthersWithoutAReasonToo) {
  const auto region = std::make_shared<SharedRegion>(2);
  const auto first = join_region(region, 0), second = join_region(region, 1);
  first->stop("");
  EXPECT_NE(second->failure(), "");
  EXPECT_THROW(second->barrier(), Error);
}

TEST(StoppedRanks, ALongReasonIsCutShort) {
  const auto region = std::make_shared<SharedRegion>(2);
  const auto ranks = join_region(region, 1);
  ranks->stop(std::string(2 * SharedRegion::kReasonBytes, 'x'));
  EXPECT_EQ(ranks->failure(), std::string(SharedRegion::kReasonBytes - 1, 'x'));
}

TEST(LostRanks, AreNoticedByThoseThatWait) {
  const auto region = std::make_shared<SharedRegion>(2);
  const auto ranks = join_region(region, 0, [] { return std::string("rank 1 has died"); });
  EXPECT_THROW(ranks->barrier(), Error);
}

TEST(LostRanks, AreNoticedByThoseThatAsk) {
  const auto region = std::make_shared<SharedRegion>(2);
  bool said = false;  // once, as RankProcesses does
  const auto ranks = join_region(region, 0, [&said] {
    return std::exchange(said, true) ? std::string() : std::string("rank 1 has died");
  });
  EXPECT_EQ(ranks->failure(), "rank 1 has died");
  EXPECT_EQ(ranks->failure(), "rank 1 has died");
  EXPECT_EQ(join_region(region, 1)->failure(), "rank 1 has died");
}

}  // namespace
}  // namespace winnow
