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
  // evaluation is known to use the files, before the other ranks go on. Launches may have the same name one
  // after the other (a container's processes have the same ids each time): the files of one whose rank 0 is
  // gone mean nothing.
  ItemClaims(std::string prefix, RankOfLaunch self, const std::function<void()>& prepare = {});
  ~ItemClaims();
  ItemClaims(const ItemClaims&) = delete;
  ItemClaims& operator=(const ItemClaims&) = delete;

  // True for one rank alone: it measures the item.
  bool claim(const std::string& item);
  // This rank has measured all it claimed.
  void finish();

  // On rank 0, after its own part: waits for the others, unless `cancelled`, which may be empty, says not to.
  // The ranks that ended, or never came, without finish().
  std::vector<int> wait_for_others(const std::function<bool()>& cancelled = {});
  // Whether that rank's part is done or its process gone: what it has measured is all there.
  bool ended(int rank) const;
  // On rank 0, in the end.
  void remove();

  // Whether a process is at work as that rank of an evaluation with these files. Waits a moment for one that
  // was killed just now.
  static bool at_work(const std::string& prefix, int rank);

 private:
  static std::string rank_file(const std::string& prefix, int rank);
  void lock_own();
  void begin(const std::function<void()>& prepare);
  bool join();
  void append(const std::string& line);
  bool said(const std::string& line) const;
  bool gone(int rank) const;
  static bool lock_is_free(const std::string& path);

  class File {  // open for reading and writing at the end
   public:
    explicit File(std::string path);  // Error(kIo)
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    int id() const { return id_; }
    const std::string& path() const { return path_; }

   private:
    std::string path_;
    int id_;
  };
  class Locked;  // a file no other process has meanwhile

  std::string prefix_;
  RankOfLaunch self_;
  File claims_, own_;  // the own one is locked as long as this lives
};

}  // namespace winnow
