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
constexpr std::chrono::seconds kLastMoment{2};  // that a killed process needs to end

std::string contents(int file) {
  std::string text;
  std::array<char, 4096> block;
  for (ssize_t count;
       (count = ::pread(file, block.data(), block.size(), static_cast<off_t>(text.size()))) > 0;) {
    text.append(block.data(), static_cast<std::size_t>(count));
  }
  return text;
}

// flock(), whatever signals come. False: with LOCK_NB, another process has it.
bool lock_file(int file, int how, const std::string& path) {
  while (::flock(file, how) != 0) {
    if (errno == EWOULDBLOCK) return false;
    if (errno != EINTR) fail(ErrorCode::kIo, "{}: cannot lock: {}", path, std::strerror(errno));
  }
  return true;
}

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

ItemClaims::File::File(std::string path) : path_(std::move(path)) {
  id_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (id_ < 0) fail(ErrorCode::kIo, "{}: cannot open for writing: {}", path_, std::strerror(errno));
}

ItemClaims::File::~File() { ::close(id_); }

class ItemClaims::Locked {
 public:
  explicit Locked(const File& file) : file_(file) { lock_file(file.id(), LOCK_EX, file.path()); }
  ~Locked() { ::flock(file_.id(), LOCK_UN); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  const File& file_;
};

ItemClaims::ItemClaims(std::string prefix, RankOfLaunch self, const std::function<void()>& prepare)
    : prefix_(std::move(prefix)),
      self_(std::move(self)),
      claims_(prefix_ + ".claims"),
      own_(rank_file(prefix_, self_.rank)) {
  if (self_.rank == 0) {
    begin(prepare);
    return;
  }
  lock_own();
  if (wait_until([&] { return join(); }, kPatience)) return;
  fail(ErrorCode::kIo, "{}: rank 0 has not begun it; do all ranks see the same file system?", claims_.path());
}

ItemClaims::~ItemClaims() = default;

void ItemClaims::lock_own() {
  if (lock_file(own_.id(), LOCK_EX | LOCK_NB, own_.path())) return;
  fail(ErrorCode::kIo, "{}: another evaluation with the same output is at work", own_.path());
}

// The others see this rank's lock and what it has written, or neither.
void ItemClaims::begin(const std::function<void()>& prepare) {
  const Locked lock(claims_);
  lock_own();
  if (prepare) prepare();
  if (::ftruncate(claims_.id(), 0) != 0) {
    fail(ErrorCode::kIo, "{}: cannot write: {}", claims_.path(), std::strerror(errno));
  }
  append("begin");
  append("here 0");
}

// On another rank, once rank 0 has begun.
bool ItemClaims::join() {
  const Locked lock(claims_);
  if (gone(0) || !said("begin")) return false;
  append(fmt::format("here {}", self_.rank));
  return true;
}

std::string ItemClaims::rank_file(const std::string& prefix, int rank) {
  return fmt::format("{}.rank{}", prefix, rank);
}

// A line holds the launch, so that those of an earlier one mean nothing.
void ItemClaims::append(const std::string& line) {
  const std::string text = fmt::format("{} {}\n", self_.launch, line);
  if (::write(claims_.id(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    fail(ErrorCode::kIo, "{}: cannot write: {}", claims_.path(), std::strerror(errno));
}

bool ItemClaims::said(const std::string& line) const {
  return ("\n" + contents(claims_.id())).find(fmt::format("\n{} {}\n", self_.launch, line)) !=
         std::string::npos;
}

bool ItemClaims::claim(const std::string& item) {
  const Locked lock(claims_);
  const std::string line = fmt::format("item {}", item);
  if (said(line)) return false;
  append(line);
  return true;
}

void ItemClaims::finish() {
  const Locked lock(claims_);
  append(fmt::format("done {}", self_.rank));
}

// Whether the rank's process has ended, or has not begun: its lock is free.
bool ItemClaims::gone(int rank) const { return lock_is_free(rank_file(prefix_, rank)); }

bool ItemClaims::lock_is_free(const std::string& path) {
  if (!std::filesystem::exists(path)) return true;
  const File file(path);
  return lock_file(file.id(), LOCK_EX | LOCK_NB, path);
}

std::vector<int> ItemClaims::wait_for_others(const std::function<bool()>& cancelled) {
  const auto stopped = [&] { return cancelled && cancelled(); };
  std::vector<int> lost;
  for (int rank = 1; rank < self_.size; ++rank) {
    const std::string here = fmt::format("here {}", rank), done = fmt::format("done {}", rank);
    const bool came = wait_until([&] { return said(here) || stopped(); }, kPatience);
    while (came && !said(done) && !gone(rank) && !stopped()) std::this_thread::sleep_for(kNap);
    if (stopped()) break;
    if (!said(done)) lost.push_back(rank);
  }
  return lost;
}

bool ItemClaims::ended(int rank) const { return said(fmt::format("done {}", rank)) || gone(rank); }

bool ItemClaims::at_work(const std::string& prefix, int rank) {
  const std::string path = rank_file(prefix, rank);
  return !wait_until([&] { return lock_is_free(path); }, kLastMoment);
}

void ItemClaims::remove() {
  std::error_code ignored;
  for (int rank = 0; rank < self_.size; ++rank) std::filesystem::remove(rank_file(prefix_, rank), ignored);
  std::filesystem::remove(prefix_ + ".claims", ignored);
}

}  // namespace winnow
