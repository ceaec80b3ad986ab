#include "ranks/shared_ranks.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <thread>
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
  std::atomic<std::int32_t> stopped_by{kNobody};  // the first rank that failed; its reason() is complete
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free &&
                  std::atomic<std::int32_t>::is_always_lock_free,
              "processes share them");

namespace {

class SharedCommunicator final : public Communicator {
 public:
  SharedCommunicator(std::shared_ptr<SharedRegion> region, int rank, std::function<std::string()> lost)
      : region_(std::move(region)), header_(region_->header()), rank_(rank), lost_(std::move(lost)) {}

  int rank() const override { return rank_; }
  int size() const override { return region_->size(); }
  std::string transport() const override { return "shared memory"; }

  void barrier() override {
    fail_if_stopped();
    const std::uint32_t generation = header_.generation.load(std::memory_order_acquire);
    if (header_.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<std::uint32_t>(size())) {
      header_.arrived.store(0, std::memory_order_relaxed);
      header_.generation.store(generation + 1, std::memory_order_release);
      return;
    }
    wait_while([&] { return header_.generation.load(std::memory_order_acquire) == generation; });
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
    return rank == kNobody ? "" : region_->reason(rank);
  }
  void fail_if_stopped() const {
    if (const std::string why = stop_reason(); !why.empty()) fail(ErrorCode::kUnsupported, "{}", why);
  }

  // Spins for as long as a neighbour's part of an operation may take, then leaves the core to others, then
  // sleeps: ranks wait for the next prompt this way too.
  template <class Waiting>
  void wait_while(Waiting waiting) {
    constexpr int kSpins = 2000;
    constexpr std::chrono::microseconds kYielding(3000), kNap(100);
    for (int i = 0; i < kSpins; ++i) {
      if (!waiting()) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    const auto start = std::chrono::steady_clock::now();
    for (int turn = 0; waiting(); ++turn) {
      if (std::chrono::steady_clock::now() - start < kYielding) {
        sched_yield();
        continue;
      }
      if (turn % 64 == 0) failure();
      fail_if_stopped();
      std::this_thread::sleep_for(kNap);
    }
  }

  std::shared_ptr<SharedRegion> region_;
  SharedRegion::Header& header_;
  int rank_;
  int parity_ = 0;
  std::function<std::string()> lost_;
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
