#include "eval/workload.h"

#include <algorithm>
#include <numeric>

namespace winnow {
namespace {

class SomeItems final : public Workload {
 public:
  SomeItems(const Workload& whole, std::vector<std::int64_t> numbers)
      : whole_(whole), numbers_(std::move(numbers)) {}

  std::string name() const override { return whole_.name(); }
  std::int64_t length() const override { return whole_.length(); }
  std::int64_t items() const override { return std::ssize(numbers_); }
  nlohmann::json identity() const override { return whole_.identity(); }
  std::unique_ptr<Item> item(std::int64_t index) const override { return whole_.item(numbers_[index]); }
  std::int64_t number(std::int64_t index) const override { return whole_.number(numbers_[index]); }

 private:
  const Workload& whole_;
  std::vector<std::int64_t> numbers_;
};

}  // namespace

std::unique_ptr<Workload> some_items(const Workload& whole, std::vector<std::int64_t> numbers) {
  return std::make_unique<SomeItems>(whole, std::move(numbers));
}

std::unique_ptr<Workload> first_items(const Workload& whole, std::int64_t count) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(std::min(count, whole.items())));
  std::iota(numbers.begin(), numbers.end(), 0);
  return some_items(whole, std::move(numbers));
}

}  // namespace winnow
