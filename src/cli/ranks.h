// The ranks a command runs on: those mpirun started, or processes started here for --devices.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "cli/common.h"
#include "eval/item_claims.h"
#include "ranks/communicator.h"
#include "runtime/rank_processes.h"

namespace winnow::cli {

// --devices and --split, for subcommands that run on several ranks.
void add_rank_options(CLI::App& app, ModelOptions& options);

// The devices in words: those of --devices ("cuda:0,cuda:1"), else --device's.
std::string devices_text(const ModelOptions& options);

// The ranks mpirun started, joined by the first call; null: it started none, or one. On rank 0 the others
// are let go when the program ends.
std::shared_ptr<Communicator> launched_ranks();

// The processes that share an evaluation's items, each with the whole model on a device of its own: those
// mpirun started, or as many as --devices names, forked here; nullopt, and shares_items()
// false: there is one, or --split says that they run one model together. `options` become those of the
// process, with its share of the host's cores. `body` is what a forked process does; to be called as
// choose_ranks().
struct ItemRank {
  RankOfLaunch self;
  std::shared_ptr<RankProcesses> others;  // of rank 0, where they were forked; they end with it
};
bool shares_items(const ModelOptions& options);
// Whether --devices or mpirun make it several ranks.
bool several_ranks(const ModelOptions& options);
std::optional<ItemRank> share_items(ModelOptions& options,
                                    const std::function<int(const ItemRank&, ModelOptions)>& body);

// Fills in what `options` say of ranks: launched_ranks(), or as many processes as --devices names, forked
// here. To be called before anything starts a thread or touches a GPU. UsageError for devices that make no
// sense, for --split with one device, and under mpirun for a subcommand without add_rank_options().
void choose_ranks(const ModelOptions& options, EngineOptions& engine);

}  // namespace winnow::cli
