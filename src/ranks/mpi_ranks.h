// Ranks that mpirun started, on any number of hosts.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "ranks/communicator.h"

namespace winnow {

// What mpirun says of this process, without MPI; nullopt: it did not start it, or started it alone.
struct MpiLaunch {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  // on this host
  std::string name;                    // of the launch: the same for all its processes and for no others
};
std::optional<MpiLaunch> mpi_launch();

// The ranks of this launch; null where mpirun did not start the process, or started one alone. To be called
// once. MPI itself is in a library of its own (winnow_mpi.so beside the program), opened here, so that a
// program without MPI needs none. Error(kUnsupported) when mpirun started the process and the library is
// not there: winnow was built without MPI.
std::unique_ptr<Communicator> join_mpi_ranks();

}  // namespace winnow
