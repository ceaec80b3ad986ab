#include "eval/item_claims.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <thread>
#include <utility>

#include "core/error.h"

namespace winnow {
namespace {

constexpr std::chrono::milliseconds kNap{50};
constexpr std::chrono::seconds kPatience{120};  // with a rank that has not come yet

int open_or_fail(const std::string& path, int flags) {
  const int file = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (file < 0) fail(ErrorCode::kIo, "{}: cannot open for writing: {}", path, std::strerror(errno));
  return file;
}

std::string contents(int file) {
  std::string text;
  std::array<char, 4096> block;
  for (ssize_t count;
       (count = ::pread(file, block.data(), block.size(), static_cast<off_t>(text.size()))) > 0;) {
    text.append(block.data(), static_cast<std::size_t>(count));
  }
  return text;
}

class FileLock {
 public:
  explicit FileLock(int file) : file_(file) {
    while (::flock(file_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~FileLock() { ::flock(file_, LOCK_UN); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int file_;
};

// Until done() or `limit`; false then.
template <class Done>
bool wait_until(const Done& done, std::chrono::seconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kNap);
  }
  return true;
}

}  // namespace

ItemClaims::ItemClaims(std::string prefix, RankOfLaunch self, const std::function<void()>& prepare)
    : prefix_(std::move(prefix)), self_(std::move(self)) {
  own_ = open_or_fail(rank_file(self_.rank), O_RDWR | O_CREAT);
  if (::flock(own_, LOCK_EX | LOCK_NB) != 0) {
    fail(ErrorCode::kIo, "{}: another evaluation with the same output is at work", rank_file(self_.rank));
  }
  claims_ = open_or_fail(prefix_ + ".claims", O_RDWR | O_CREAT | O_APPEND);
  if (self_.rank == 0) {
    if (prepare) prepare();
    const FileLock lock(claims_);
    if (::ftruncate(claims_, 0) != 0)
      fail(ErrorCode::kIo, "{}.claims: cannot write: {}", prefix_, std::strerror(errno));
    append("begin");
  } else if (!wait_until([&] { return said("begin"); }, kPatience)) {
    fail(ErrorCode::kIo, "{}.claims: rank 0 has not begun it; do all ranks see the same file system?",
         prefix_);
  }
  const FileLock lock(claims_);
  append(fmt::format("here {}", self_.rank));
}

ItemClaims::~ItemClaims() {
  ::close(claims_);
  ::close(own_);
}

std::string ItemClaims::rank_file(int rank) const { return fmt::format("{}.rank{}", prefix_, rank); }

// A line holds the launch, so that those of an earlier one mean nothing.
void ItemClaims::append(const std::string& line) {
  const std::string text = fmt::format("{} {}\n", self_.launch, line);
  if (::write(claims_, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    fail(ErrorCode::kIo, "{}.claims: cannot write: {}", prefix_, std::strerror(errno));
}

bool ItemClaims::said(const std::string& line) const {
  return ("\n" + contents(claims_)).find(fmt::format("\n{} {}\n", self_.launch, line)) != std::string::npos;
}

bool ItemClaims::claim(const std::string& item) {
  const FileLock lock(claims_);
  const std::string line = fmt::format("item {}", item);
  if (said(line)) return false;
  append(line);
  return true;
}

void ItemClaims::finish() {
  const FileLock lock(claims_);
  append(fmt::format("done {}", self_.rank));
}

// Whether the rank's process has ended: its lock is free.
bool ItemClaims::gone(int rank) const {
  const int file = ::open(rank_file(rank).c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return true;
  const bool free = ::flock(file, LOCK_EX | LOCK_NB) == 0;
  ::close(file);
  return free;
}

std::vector<int> ItemClaims::wait_for_others() {
  std::vector<int> lost;
  for (int rank = 1; rank < self_.size; ++rank) {
    const std::string done = fmt::format("done {}", rank);
    const bool came = wait_until([&] { return said(fmt::format("here {}", rank)); }, kPatience);
    while (came && !said(done) && !gone(rank)) std::this_thread::sleep_for(kNap);
    if (!said(done)) lost.push_back(rank);
  }
  return lost;
}

void ItemClaims::remove() {
  std::error_code ignored;
  for (int rank = 0; rank < self_.size; ++rank) std::filesystem::remove(rank_file(rank), ignored);
  std::filesystem::remove(prefix_ + ".claims", ignored);
}

}  // namespace winnow
