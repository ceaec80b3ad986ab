// The library winnow_mpi.so: a Communicator over MPI_COMM_WORLD. The only file that sees mpi.h.
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "ranks/communicator.h"

namespace winnow {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 30;  // MPI counts in int

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator() {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
    if (provided < MPI_THREAD_SERIALIZED) stop("this MPI lets only one thread call it");
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm host = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host);
    MPI_Comm_rank(host, &local_rank_);
    MPI_Comm_size(host, &local_size_);
    host_ = rank_;
    MPI_Bcast(&host_, 1, MPI_INT, 0, host);  // the first of its ranks names it
    MPI_Comm_free(&host);
  }
  ~MpiCommunicator() override { MPI_Finalize(); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  int host() const override { return host_; }
  std::string transport() const override { return "MPI"; }

  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }

  void broadcast(std::span<std::byte> data, int root) override {
    in_pieces(data.size(), [&](std::size_t at, int count) {
      MPI_Bcast(data.data() + at, count, MPI_BYTE, root, MPI_COMM_WORLD);
    });
  }

  void all_gather(std::span<const std::byte> own, std::span<std::byte> all) override {
    if (own.size() <= kMostBytes) {
      const int count = static_cast<int>(own.size());
      MPI_Allgather(own.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, MPI_COMM_WORLD);
      return;
    }
    for (int rank = 0; rank < size_; ++rank) {
      const auto part = all.subspan(static_cast<std::size_t>(rank) * own.size()).first(own.size());
      if (rank == rank_) std::copy(own.begin(), own.end(), part.begin());
      broadcast(part, rank);
    }
  }

  void transfer(std::span<std::byte> data, int from, int to) override {
    if (from == to) return;
    in_pieces(data.size(), [&](std::size_t at, int count) {
      if (rank_ == from) MPI_Send(data.data() + at, count, MPI_BYTE, to, 0, MPI_COMM_WORLD);
      if (rank_ == to) {
        MPI_Recv(data.data() + at, count, MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      }
    });
  }

  void sum(std::span<float> values) override {
    in_pieces(values.size_bytes(), [&](std::size_t at, int count) {
      MPI_Allreduce(MPI_IN_PLACE, values.data() + at / sizeof(float), count / static_cast<int>(sizeof(float)),
                    MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    });
  }

  void stop(const std::string& why) noexcept override {
    std::fprintf(stderr, "winnow: %s\n", why.c_str());
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
  }

 private:
  template <class Call>
  static void in_pieces(std::size_t bytes, Call call) {
    for (std::size_t at = 0; at < bytes; at += kMostBytes) {
      call(at, static_cast<int>(std::min(bytes - at, kMostBytes)));
    }
  }

  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1, host_ = 0;
};

}  // namespace
}  // namespace winnow

extern "C" winnow::Communicator* winnow_join_mpi() { return new winnow::MpiCommunicator(); }
