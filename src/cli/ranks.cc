#include "cli/ranks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "cli/command.h"
#include "ranks/mpi_ranks.h"
#include "ranks/rank_threads.h"
#include "runtime/rank_processes.h"
#include "runtime/ranks.h"

namespace winnow::cli {
namespace {

// "0,1" -> cuda:0, cuda:1; names of devices stay.
std::vector<std::string> device_names(const std::vector<std::string>& texts) {
  std::vector<std::string> names;
  for (const std::string& text : texts) {
    const std::string name = cuda_device("cuda:" + text) ? "cuda:" + text : text;
    if (name != "cpu" && name != "reference" && !cuda_device(name)) {
      throw UsageError(
          fmt::format("--devices {}: a list of GPU numbers (0,1), or of cpu, cuda:N or reference", text));
    }
    names.push_back(name);
  }
  return names;
}

}  // namespace

void add_rank_options(CLI::App& app, ModelOptions& options) {
  options.takes_ranks = true;
  app.add_option("--devices", options.devices,
                 "Run one model on several: GPU numbers (0,1), or names as --device has them")
      ->delimiter(',')
      ->excludes("--device");
  app.add_option(
         "--split", options.split,
         "What each of them gets: tensor (part of every layer) or layers (some of them; default tensor)")
      ->check(CLI::IsMember({"tensor", "layers"}));
}

std::string devices_text(const ModelOptions& options) {
  if (options.devices.empty()) return options.device;
  return fmt::format("{}", fmt::join(device_names(options.devices), ","));
}

std::shared_ptr<Communicator> launched_ranks() {
  static const std::shared_ptr<Communicator> ranks = [] {
    std::unique_ptr<Communicator> joined = join_mpi_ranks();
    return std::shared_ptr<Communicator>(joined.release(), [](Communicator* last) {
      if (last != nullptr && last->rank() == 0) dismiss_followers(*last);
      delete last;
    });
  }();
  return ranks;
}

bool several_ranks(const ModelOptions& options) { return mpi_launch() || options.devices.size() > 1; }

bool shares_items(const ModelOptions& options) { return options.split.empty() && several_ranks(options); }

std::optional<ItemRank> share_items(ModelOptions& options,
                                    const std::function<int(const ItemRank&, ModelOptions)>& body) {
  if (!shares_items(options)) return std::nullopt;
  const std::vector<std::string> devices = device_names(options.devices);
  const auto own = [&](int local_rank, int local_size) {
    ModelOptions one = options;
    one.alone = true;
    one.threads = threads_of_rank(options.threads, local_size);
    if (!devices.empty()) {
      one.device = devices[static_cast<std::size_t>(local_rank) % devices.size()];
    } else if (one.device == "cuda") {
      one.device = fmt::format("cuda:{}", local_rank);
    }
    return one;
  };
  if (const auto launch = mpi_launch()) {
    options = own(launch->local_rank, launch->local_size);
    return ItemRank{{launch->rank, launch->size, launch->name}, nullptr};
  }
  const int size = static_cast<int>(devices.size());
  const std::string name = fmt::format("pid{}", ::getpid());
  ItemRank first{{0, size, name}, nullptr};
  first.others = std::make_shared<RankProcesses>(size - 1, [&](int rank) {
    return body({{rank, size, name}, nullptr}, own(rank, size));
  });
  options = own(0, size);
  return first;
}

void choose_ranks(const ModelOptions& options, EngineOptions& engine) {
  if (options.alone) return;
  engine.ranks = launched_ranks();
  if (engine.ranks && !options.takes_ranks) {
    throw UsageError("this subcommand runs in one process: start it without mpirun");
  }
  engine.devices = device_names(options.devices);
  engine.split = options.split == "layers" ? Split::kLayers : Split::kTensor;
  if (!options.split.empty() && !engine.ranks && engine.devices.size() < 2) {
    throw UsageError(
        fmt::format("--split {}: there is one device: name several with --devices, or start several "
                    "processes with mpirun",
                    options.split));
  }
  if (!engine.ranks && engine.devices.size() > 1) {
    engine.ranks = start_ranks(static_cast<int>(engine.devices.size()));
  } else if (!engine.ranks && !engine.devices.empty()) {
    engine.device = engine.devices.front();
  }
}

}  // namespace winnow::cli
