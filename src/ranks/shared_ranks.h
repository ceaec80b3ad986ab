// Ranks on one host that share memory: processes forked from one, or threads of one (tests).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "ranks/communicator.h"

namespace winnow {

// What the ranks exchange through. Made once, before the ranks are: by the process that forks, or that starts
// the threads.
class SharedRegion {
 public:
  explicit SharedRegion(int size);  // Error(kOutOfMemory)
  ~SharedRegion();
  SharedRegion(const SharedRegion&) = delete;
  SharedRegion& operator=(const SharedRegion&) = delete;

  struct Header;
  int size() const { return size_; }
  Header& header() const { return *header_; }
  // Where `rank` leaves data; of two, so that one is read while the next is written.
  std::byte* slot(int rank, int parity) const;
  static constexpr std::size_t kSlotBytes = std::size_t{1} << 20;
  // Where `rank`, and no other, writes why it has failed.
  char* reason(int rank) const;
  static constexpr std::size_t kReasonBytes = 4096;

 private:
  std::byte* memory_of(int rank) const;

  int size_;
  std::size_t bytes_;
  Header* header_;
};

// Rank `rank` of a region. `lost` is asked now and then while waiting, and by failure(): a sentence when
// another rank is gone, "" otherwise; of any thread; may be empty.
std::unique_ptr<Communicator> join_region(std::shared_ptr<SharedRegion> region, int rank,
                                          std::function<std::string()> lost = {});

}  // namespace winnow
