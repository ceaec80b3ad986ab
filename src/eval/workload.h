// Workload: items that policies are measured on, at one length. Windows of a text, or the questions of a
// task.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/eval_policy.h"
#include "eval/sample.h"

namespace winnow {

using Cancelled = std::function<bool()>;

// One item under several policies. Whatever they share (the prompt, the dense result) is made once.
class Item {
 public:
  virtual ~Item() = default;
  // Nothing when `cancelled`.
  virtual std::optional<Sample> measure(const EvalPolicy& policy, const Cancelled& cancelled) = 0;
};

class Workload {
 public:
  virtual ~Workload() = default;
  virtual std::string name() const = 0;  // "niah", "windows"
  virtual std::int64_t length() const = 0;
  virtual std::int64_t items() const = 0;
  // What decides an item's sample beside model and policy.
  virtual nlohmann::json identity() const = 0;
  virtual std::unique_ptr<Item> item(std::int64_t index) const = 0;
  // The item's number in the workload that it was chosen from: a sample's key has that one.
  virtual std::int64_t number(std::int64_t index) const { return index; }
};

// Some items of a workload, which must outlive it. A sample's key stays the same.
std::unique_ptr<Workload> some_items(const Workload& whole, std::vector<std::int64_t> numbers);
// The first `count` (all when it has no more).
std::unique_ptr<Workload> first_items(const Workload& whole, std::int64_t count);

}  // namespace winnow
