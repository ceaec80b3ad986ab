#include "eval/workload.h"

#include <algorithm>

namespace winnow {
namespace {

class FirstItems final : public Workload {
 public:
  FirstItems(const Workload& whole, std::int64_t count)
      : whole_(whole), count_(std::min(count, whole.items())) {}

  std::string name() const override { return whole_.name(); }
  std::int64_t length() const override { return whole_.length(); }
  std::int64_t items() const override { return count_; }
  nlohmann::json identity() const override { return whole_.identity(); }
  std::unique_ptr<Item> item(std::int64_t index) const override { return whole_.item(index); }

 private:
  const Workload& whole_;
  std::int64_t count_;
};

}  // namespace

std::unique_ptr<Workload> first_items(const Workload& whole, std::int64_t count) {
  return std::make_unique<FirstItems>(whole, count);
}

}  // namespace winnow
