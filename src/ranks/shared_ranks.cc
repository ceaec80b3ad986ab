#include "ranks/shared_ranks.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <ctime>
#include <mutex>
#include <new>
#include <utility>

#include "core/check.h"
#include "core/error.h"

namespace winnow {
namespace {

constexpr std::size_t kHeaderBytes = 4096;
constexpr std::size_t kRankBytes = SharedRegion::kReasonBytes + 2 * SharedRegion::kSlotBytes;
constexpr std::int32_t kNobody = -1;

}  // namespace

struct SharedRegion::Header {
  std::atomic<std::uint32_t> generation{0};       // meetings so far
  std::atomic<std::uint32_t> arrived{0};          // at the next one
  std::atomic<std::uint32_t> asleep{0};           // until there is one more
  std::atomic<std::int32_t> stopped_by{kNobody};  // the first rank that failed; its reason() is complete
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free &&
                  std::atomic<std::int32_t>::is_always_lock_free,
              "processes share them");

namespace {

// std::atomic's own waiting is within one process. Returns when woken, when `value` is not `old`, and now and
// then.
void sleep_while(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  const timespec most{0, 20'000'000};
  syscall(SYS_futex, &value, FUTEX_WAIT, old, &most, nullptr, 0);
}
void wake_all(const std::atomic<std::uint32_t>& value) {
  syscall(SYS_futex, &value, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

class SharedCommunicator final : public Communicator {
 public:
  SharedCommunicator(std::shared_ptr<SharedRegion> region, int rank, std::function<std::string()> lost)
      : region_(std::move(region)), header_(region_->header()), rank_(rank), lost_(std::move(lost)) {}

  int rank() const override { return rank_; }
  int size() const override { return region_->size(); }
  std::string transport() const override { return "shared memory"; }
  void spin_for(std::chrono::microseconds most) override { spin_ = most; }

  void barrier() override {
    fail_if_stopped();
    const std::uint32_t generation = header_.generation.load(std::memory_order_acquire);
    if (header_.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<std::uint32_t>(size())) {
      header_.arrived.store(0, std::memory_order_relaxed);
      header_.generation.store(generation + 1);
      if (header_.asleep.load() > 0) wake_all(header_.generation);
      return;
    }
    wait_for_meeting_after(generation);
  }

  void broadcast(std::span<std::byte> data, int root) override {
    exchange(rank_ == root ? std::span<const std::byte>(data) : std::span<const std::byte>(), data.size(),
             [&](std::size_t at, std::size_t count) {
               if (rank_ != root) std::copy_n(slot(root), count, data.data() + at);
             });
  }

  void all_gather(std::span<const std::byte> own, std::span<std::byte> all) override {
    check(all.size() == own.size() * static_cast<std::size_t>(size()), "all_gather: room for all ranks");
    exchange(own, own.size(), [&](std::size_t at, std::size_t count) {
      for (int rank = 0; rank < size(); ++rank) {
        std::copy_n(slot(rank), count, all.data() + static_cast<std::size_t>(rank) * own.size() + at);
      }
    });
  }

  void transfer(std::span<std::byte> data, int from, int to) override {
    exchange(rank_ == from ? std::span<const std::byte>(data) : std::span<const std::byte>(), data.size(),
             [&](std::size_t at, std::size_t count) {
               if (rank_ == to) std::copy_n(slot(from), count, data.data() + at);
             });
  }

  void sum(std::span<float> values) override {
    exchange(std::as_bytes(values), values.size_bytes(), [&](std::size_t at, std::size_t count) {
      float* to = values.data() + at / sizeof(float);
      for (int rank = 0; rank < size(); ++rank) {
        const auto* from = reinterpret_cast<const float*>(slot(rank));
        for (std::size_t i = 0; i < count / sizeof(float); ++i) to[i] = rank == 0 ? from[i] : to[i] + from[i];
      }
    });
  }

  // A rank writes where no other does, so that one killed while it writes leaves nothing half said.
  void stop(const std::string& why) noexcept override {
    const std::lock_guard lock(stopping_);
    if (header_.stopped_by.load(std::memory_order_acquire) != kNobody) return;
    const std::size_t length = std::min(why.size(), SharedRegion::kReasonBytes - 1);
    std::copy_n(why.data(), length, region_->reason(rank_));  // zeros follow
    std::int32_t nobody = kNobody;                            // the first failure is the cause
    header_.stopped_by.compare_exchange_strong(nobody, rank_, std::memory_order_acq_rel);
    wake_all(header_.generation);
  }

  std::string failure() override {
    if (const std::string why = stop_reason(); !why.empty() || !lost_) return why;
    if (const std::string why = lost_(); !why.empty()) stop(why);
    return stop_reason();
  }

 private:
  std::byte* slot(int rank) const { return region_->slot(rank, parity_); }

  // Slot by slot: own data is written, all meet, then read(offset, bytes). A slot is written again two
  // exchanges later, when all have come to the meeting in between and so have read it.
  template <class Read>
  void exchange(std::span<const std::byte> own, std::size_t bytes, Read read) {
    for (std::size_t at = 0; at < bytes; at += SharedRegion::kSlotBytes) {
      const std::size_t count = std::min(bytes - at, SharedRegion::kSlotBytes);
      if (!own.empty()) std::copy_n(own.data() + at, count, slot(rank_));
      barrier();
      read(at, count);
      parity_ ^= 1;
    }
  }

  std::string stop_reason() const {
    const std::int32_t rank = header_.stopped_by.load(std::memory_order_acquire);
    if (rank == kNobody) return "";
    const std::string why = region_->reason(rank);
    // "" would say that nobody has stopped.
    return why.empty() ? fmt::format("rank {} stopped and did not say why", rank) : why;
  }
  void fail_if_stopped() const {
    if (const std::string why = stop_reason(); !why.empty()) fail(ErrorCode::kUnsupported, "{}", why);
  }

  bool met_after(std::uint32_t generation) const { return header_.generation.load() != generation; }

  // Spins for as long as a neighbour's part of an operation may take, then sleeps: ranks wait for the next
  // prompt this way too, and where somebody else uses the cores as well, a rank that has slept gets one back
  // at once when its turn comes.
  void wait_for_meeting_after(std::uint32_t generation) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    do {
      for (int i = 0; i < 16; ++i) {
        if (met_after(generation)) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
    } while (Clock::now() - start < spin_);
    header_.asleep.fetch_add(1);
    while (!met_after(generation) && failure().empty()) sleep_while(header_.generation, generation);
    header_.asleep.fetch_sub(1);
    if (!met_after(generation)) fail_if_stopped();
  }

  std::shared_ptr<SharedRegion> region_;
  SharedRegion::Header& header_;
  int rank_;
  int parity_ = 0;
  std::function<std::string()> lost_;
  std::chrono::microseconds spin_{100};
  std::mutex stopping_;  // of this rank's threads
};

}  // namespace

SharedRegion::SharedRegion(int size)
    : size_(size), bytes_(kHeaderBytes + static_cast<std::size_t>(size) * kRankBytes) {
  static_assert(sizeof(Header) <= kHeaderBytes);
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    fail(ErrorCode::kOutOfMemory, "cannot allocate {} bytes shared by {} ranks", bytes_, size);
  header_ = new (memory) Header();
}

SharedRegion::~SharedRegion() { munmap(static_cast<void*>(header_), bytes_); }

std::byte* SharedRegion::memory_of(int rank) const {
  return reinterpret_cast<std::byte*>(header_) + kHeaderBytes + static_cast<std::size_t>(rank) * kRankBytes;
}

char* SharedRegion::reason(int rank) const { return reinterpret_cast<char*>(memory_of(rank)); }

std::byte* SharedRegion::slot(int rank, int parity) const {
  return memory_of(rank) + kReasonBytes + static_cast<std::size_t>(parity) * kSlotBytes;
}

std::unique_ptr<Communicator> join_region(std::shared_ptr<SharedRegion> region, int rank,
                                          std::function<std::string()> lost) {
  check(rank >= 0 && rank < region->size(), "join_region: a rank of the region");
  return std::make_unique<SharedCommunicator>(std::move(region), rank, std::move(lost));
}

}  // namespace winnow
