#include "ranks/mpi_ranks.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <string>

#include "core/error.h"

namespace winnow {
namespace {

// The first of the variables that is set; "" when none is.
std::string variable(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name)) return value;
  }
  return "";
}
int number(const std::string& text) { return text.empty() ? 0 : std::atoi(text.c_str()); }

void* open_library() {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::canonical("/proc/self/exe", error).parent_path();
  std::string reasons;
  const std::filesystem::path installed = folder / ".." / WINNOW_LIBRARY_FOLDER / "winnow" / "winnow_mpi.so";
  for (const auto& path : {folder / "winnow_mpi.so", installed}) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) return library;
    reasons += std::string("; ") + dlerror();
  }
  fail(
      ErrorCode::kUnsupported,
      "mpirun started this, but winnow was built without MPI: install libopenmpi-dev and build again, or use "
      "--devices without mpirun{}",
      reasons);
}

}  // namespace

// Open MPI has variables of its own, launchers with a PMI those of the other names.
std::optional<MpiLaunch> mpi_launch() {
  MpiLaunch launch;
  launch.size = number(variable({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}));
  if (launch.size < 2) return std::nullopt;
  launch.rank = number(variable({"OMPI_COMM_WORLD_RANK", "PMI_RANK"}));
  launch.local_rank = number(variable({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"}));
  launch.local_size = std::max(1, number(variable({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"})));
  launch.name =
      variable({"OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid", "PMIX_NAMESPACE", "PMI_JOBID"});
  return launch;
}

std::unique_ptr<Communicator> join_mpi_ranks() {
  const auto launch = mpi_launch();
  if (!launch) return nullptr;
  using Make = Communicator* (*)();
  const auto make = reinterpret_cast<Make>(dlsym(open_library(), "winnow_join_mpi"));
  if (make == nullptr) fail(ErrorCode::kUnsupported, "winnow_mpi.so is of another version of winnow");
  std::unique_ptr<Communicator> ranks(make());
  // Each process would compute everything alone and call itself rank 0.
  if (ranks->size() != launch->size) {
    fail(ErrorCode::kUnsupported,
         "mpirun started {} processes, winnow's MPI library sees {}: they are of different MPIs; use the "
         "mpirun of the MPI that winnow was built with",
         launch->size, ranks->size());
  }
  return ranks;
}

}  // namespace winnow
