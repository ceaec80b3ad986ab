// Ranks for tests: threads of this process, or, when mpirun started the test, its processes.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "ranks/mpi_ranks.h"
#include "ranks/shared_ranks.h"
#include "runtime/ranks.h"
#include "support/session_testing.h"

namespace winnow {

// Set by main(); null: not started by mpirun.
inline std::shared_ptr<Communicator>& mpi_ranks() {
  static std::shared_ptr<Communicator> ranks;
  return ranks;
}

// Rank 0 of `size`, whose others follow until this goes.
class TestRanks {
 public:
  explicit TestRanks(int size) {
    if (mpi_ranks()) {
      ranks_ = mpi_ranks();
      return;
    }
    const auto region = std::make_shared<SharedRegion>(size);
    for (int rank = 1; rank < size; ++rank) {
      followers_.emplace_back([region, rank] {
        try {
          follow(join_region(region, rank));
        } catch (const Error&) {  // rank 0 is told
        }
      });
    }
    ranks_ = join_region(region, 0);
  }
  ~TestRanks() {
    if (followers_.empty()) return;
    dismiss_followers(*ranks_);
    for (std::thread& follower : followers_) follower.join();
  }
  TestRanks(const TestRanks&) = delete;
  TestRanks& operator=(const TestRanks&) = delete;

  const std::shared_ptr<Communicator>& operator*() const { return ranks_; }

 private:
  std::vector<std::thread> followers_;
  std::shared_ptr<Communicator> ranks_;
};

}  // namespace winnow
