// ItemClaims: which of several processes measures which item of an evaluation, settled through files beside
// the result, on a file system that all of them see.
//
// No message passing: a process may die at any time, on any host, and the others know what it had claimed and
// that it is gone (the lock it held is free).
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace winnow {

// One of the processes that were started together. `launch` is the same for all of them and no others.
struct RankOfLaunch {
  int rank = 0, size = 1;
  std::string launch;
};

class ItemClaims {
 public:
  // Files are named PREFIX.claims and PREFIX.rankN. Rank 0 begins them; the others wait for that. Error(kIo)
  // when a file cannot be written or rank 0 does not come. `prepare` is called on rank 0 once no other
  // evaluation is known to use the files, before the other ranks go on.
  ItemClaims(std::string prefix, RankOfLaunch self, const std::function<void()>& prepare = {});
  ~ItemClaims();
  ItemClaims(const ItemClaims&) = delete;
  ItemClaims& operator=(const ItemClaims&) = delete;

  // True for one rank alone: it measures the item.
  bool claim(const std::string& item);
  // This rank has measured all it claimed.
  void finish();

  // On rank 0, after its own part: waits for the others. The ranks that ended, or never came, without
  // finish().
  std::vector<int> wait_for_others();
  // On rank 0, in the end.
  void remove();

 private:
  std::string rank_file(int rank) const;
  void append(const std::string& line);
  bool said(const std::string& line) const;
  bool gone(int rank) const;

  std::string prefix_;
  RankOfLaunch self_;
  int claims_ = -1, own_ = -1;  // files; the own one is locked as long as this lives
};

}  // namespace winnow
