// Communicator: how the ranks that compute one model together (docs/multi_gpu.md) exchange host memory.
//
// A rank is a process or a thread with a backend of its own. Every rank makes the same calls in the same
// order, one at a time, with data of the same size. Implementations: memory shared on one host
// (shared_ranks.h) and MPI (mpi_ranks.h). What travels between GPUs goes through the CUDA backend instead.
//
// When a rank fails, the others cannot go on: their next call, or the one they wait in, throws
// Error(kUnsupported) saying which rank failed and why, or, with MPI, the launcher ends them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace winnow {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;  // 0 leads
  virtual int size() const = 0;
  // Among the ranks of this host.
  virtual int local_rank() const { return rank(); }
  virtual int local_size() const { return size(); }
  virtual int host() const { return 0; }      // the same number for the ranks of one host alone
  virtual std::string transport() const = 0;  // "shared memory", "MPI"
  // Waits of this rank that take longer give its core to others. Short unless told: ranks on CPUs compute
  // with these cores, those on GPUs have them to wait.
  virtual void spin_for(std::chrono::microseconds /*most*/) {}

  virtual void barrier() = 0;
  // `data` of rank `root`, on every rank.
  virtual void broadcast(std::span<std::byte> data, int root) = 0;
  // all = what rank 0 gave, then rank 1, ...; all.size() = size() * own.size().
  virtual void all_gather(std::span<const std::byte> own, std::span<std::byte> all) = 0;
  // `data` of rank `from`, on rank `to`; the others' is left alone.
  virtual void transfer(std::span<std::byte> data, int from, int to) = 0;
  // values[i] = the sum of all ranks' values[i], the same bits on every rank.
  virtual void sum(std::span<float> values);
  // values[i] = the largest of all ranks'; a NaN of any rank stays one.
  void maximum(std::span<float> values);

  // This rank has failed: ends the waiting of the others. Of any thread.
  virtual void stop(const std::string& why) noexcept = 0;
  // Why the ranks have stopped, or which of them is gone; "" while all run. Never waits; of any thread. With
  // MPI the launcher ends all of them instead.
  virtual std::string failure() { return ""; }

  // broadcast() of a plain value, and of a vector with its length.
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void share(T& value, int root = 0) { broadcast(std::as_writable_bytes(std::span(&value, 1)), root); }
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void share(std::vector<T>& values, int root = 0) {
    auto count = static_cast<std::int64_t>(values.size());
    share(count, root);
    values.resize(static_cast<std::size_t>(count));
    broadcast(std::as_writable_bytes(std::span(values)), root);
  }
  // What every rank has, in order.
  template <class T>
  requires std::is_trivially_copyable_v<T> std::vector<T> gather(const T& own) {
    std::vector<T> all(static_cast<std::size_t>(size()));
    all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)));
    return all;
  }
};

}  // namespace winnow
