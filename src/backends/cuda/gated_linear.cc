#include "backends/cuda/gated_linear.h"

#include <fmt/format.h>

#include "backends/cuda/device_buffer.h"
#include "backends/cuda/fastest.h"

namespace winnow::cuda {
namespace {

constexpr std::int64_t kWorthMeasuring = 192;  // rows: with fewer, tiles are too few
constexpr std::uint64_t kMostGroup = 1024;

}  // namespace

GatedLinear::GatedLinear(Device& device, Matmul& matmul, const StoredChoices& stored)
    : device_(device), matmul_(matmul), stored_(stored) {}

void GatedLinear::run(const GatedLinearArgs& args, void* product) {
  issue(args, choose(args, product), product);
}

void GatedLinear::issue(const GatedLinearArgs& args, const Plan& plan, void* product) {
  if (plan) return launch_gated_kernel(args, *plan, device_.multiprocessors(), device_.stream());
  matmul_.linear({.x = args.x,
                  .weight = args.weight,
                  .bias = nullptr,
                  .y = product,
                  .rows = args.rows,
                  .in = args.in,
                  .out = 2 * args.dim,
                  .bf16 = true,
                  .y_bf16 = true,
                  .accumulate = false});
  launch_activation(args.kind, product, args.y, args.rows, args.dim, true, device_.stream());
}

GatedLinear::Plan GatedLinear::choose(const GatedLinearArgs& args, void* product) {
  if (args.rows < kWorthMeasuring || !gated_kernel_takes(args)) return std::nullopt;
  const Key key{choice_rows(args.rows), args.in, args.dim, args.kind};
  if (const auto known = choices_.find(key); known != choices_.end()) return known->second;
  if (const auto known = stored_.find(key_text(key)); known != stored_.end()) {
    const std::vector<std::uint64_t>& words = known->second;
    if (words.empty()) return choices_.emplace(key, std::nullopt).first->second;
    if (words.size() == 1 && words[0] >= 1 && words[0] <= kMostGroup) {
      return choices_.emplace(key, static_cast<int>(words[0])).first->second;
    }
  }
  const std::int64_t most = most_choice_rows(args.rows);
  const MeasuredRows x(device_, args.x, args.rows, most, args.in * 2);
  const Buffer y = allocate_buffer(device_, most * args.dim * 2),
               own_product = most > args.rows ? allocate_buffer(device_, most * args.dim * 4) : Buffer();
  if (most > args.rows) product = own_product.as<>();
  const Plan plans[] = {std::nullopt, 8, 32};
  const auto measured = [&](std::int64_t rows, int rounds) {
    GatedLinearArgs asked = args;
    asked.x = x.data();
    asked.y = y.as<>();
    asked.rows = rows;
    return measure_ways(device_, std::size(plans), rounds, [&](std::size_t i) {
      issue(asked, plans[i], product);
      return true;
    });
  };
  const Plan chosen = plans[fastest_way(args.rows, most, measured)];
  choices_.emplace(key, chosen);
  std::vector<std::uint64_t> words;
  if (chosen) words.push_back(static_cast<std::uint64_t>(*chosen));
  add_choice(key_text(key), words);
  return chosen;
}

std::string GatedLinear::key_text(const Key& key) const {
  const auto& [rows, in, dim, kind] = key;
  return fmt::format("{} | gated product | rows {} in {} dim {} kind {}", device_.name(), rows, in, dim,
                     static_cast<int>(kind));
}

}  // namespace winnow::cuda
