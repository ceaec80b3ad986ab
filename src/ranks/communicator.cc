#include "ranks/communicator.h"

#include "core/higher.h"

namespace winnow {
namespace {

// values[i] = fold of all ranks' values[i], in the order of the ranks.
template <class Fold>
void reduce(Communicator& ranks, std::span<float> values, Fold fold) {
  std::vector<float> all(values.size() * static_cast<std::size_t>(ranks.size()));
  ranks.all_gather(std::as_bytes(values), std::as_writable_bytes(std::span(all)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    float result = all[i];
    for (std::size_t j = i + values.size(); j < all.size(); j += values.size()) result = fold(result, all[j]);
    values[i] = result;
  }
}

}  // namespace

void Communicator::sum(std::span<float> values) {
  reduce(*this, values, [](float a, float b) { return a + b; });
}

void Communicator::maximum(std::span<float> values) {
  reduce(*this, values, [](float a, float b) { return higher(a, b); });
}

}  // namespace winnow
