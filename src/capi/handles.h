// What the C interface's handles hold, and how calls of it are made: one at a time on an engine, errors as a
// status.
#pragma once

#include <winnow/winnow.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "runtime/session.h"
#include "sparsity/policy.h"

namespace winnow::capi {

// What does one thing at a time: an engine on the CPU, or a GPU with all engines on it, whose backends share
// one stream (backends/cuda/device.h): what one puts there while another records a step would be recorded
// too.
class Gate {
 public:
  // Of an engine on `device`.
  static std::shared_ptr<Gate> of(const std::string& device);

  bool mine() const { return owner_ == std::this_thread::get_id(); }

 private:
  friend class Turn;
  std::mutex mutex_;
  std::atomic<std::thread::id> owner_{};
};

// Waits for the gate. Error(kBadArgument) in a callback of a call that holds it, which would wait for itself.
class Turn {
 public:
  explicit Turn(std::shared_ptr<Gate> gate);
  ~Turn() { gate_->owner_ = std::thread::id(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::shared_ptr<Gate> gate_;
  std::unique_lock<std::mutex> lock_;
};

// Frees under the gate; in a callback, under the turn that its call has.
template <class Function>
void free_in_turn(const std::shared_ptr<Gate>& gate, const Function& function) {
  std::optional<Turn> turn;
  if (!gate->mine()) turn.emplace(gate);
  function();
}

// An engine and its gate. Sessions share it with the caller's handle.
class SharedEngine {
 public:
  SharedEngine(std::unique_ptr<Engine> engine, std::shared_ptr<Gate> gate)
      : gate_(std::move(gate)), engine_(std::move(engine)) {}
  ~SharedEngine() {
    free_in_turn(gate_, [&] { engine_.reset(); });
  }
  SharedEngine(const SharedEngine&) = delete;
  SharedEngine& operator=(const SharedEngine&) = delete;

  const std::shared_ptr<Gate>& gate() const { return gate_; }

  // Engine's own members that are const do not change after opening: they need no turn.
  const Engine& operator*() const { return *engine_; }
  const Engine* operator->() const { return engine_.get(); }

 private:
  std::shared_ptr<Gate> gate_;
  std::unique_ptr<Engine> engine_;
};

// A callback of the caller's asked to stop.
struct Cancelled {};

// Keeps the message for winnow_error_message().
winnow_status failed(winnow_status status, const char* message) noexcept;
// Of the exception at hand.
winnow_status failure() noexcept;

template <class Function>
winnow_status guarded(const Function& function) noexcept {
  try {
    function();
    return WINNOW_OK;
  } catch (...) {
    return failure();
  }
}

template <class T>
T& required(T* pointer, const char* name) {
  if (pointer == nullptr) fail(ErrorCode::kBadArgument, "{} is null", name);
  return *pointer;
}

// A caller's options, which may be of an older or newer version of the struct: fields it has not are zero,
// and what this library does not know must be. Null: all defaults.
template <class Options>
Options read_options(const Options* given) {
  Options options{};
  if (given == nullptr) return options;
  const std::size_t size = given->size;
  if (size < sizeof(std::size_t)) fail(ErrorCode::kBadArgument, "options: size is {}: not set", size);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  std::memcpy(&options, bytes, std::min(size, sizeof(Options)));
  if (std::any_of(bytes + std::min(size, sizeof(Options)), bytes + size,
                  [](unsigned char b) { return b != 0; })) {
    fail(ErrorCode::kUnsupported, "options: set something that winnow {} does not know", winnow_version());
  }
  return options;
}

// Fills a caller's struct of the size it says, and leaves what it has not and what the library has not.
template <class Result>
void write_result(Result* given, Result result) {
  const std::size_t size = required(given, "the result").size;
  if (size < sizeof(std::size_t)) fail(ErrorCode::kBadArgument, "the result's size is {}: not set", size);
  result.size = size;
  std::memcpy(static_cast<void*>(given), &result, std::min(size, sizeof(Result)));
}

// Of a result that the library reads before it fills it: room for its size.
template <class Result>
void check_result(const Result* given, const char* name) {
  const std::size_t size = required(given, name).size;
  if (size < sizeof(std::size_t)) fail(ErrorCode::kBadArgument, "{}: size is {}: not set", name, size);
}

// A copy that winnow_free() takes; of an empty array too.
template <class T>
T* caller_owned(const T* values, std::size_t count) {
  auto* copy = static_cast<T*>(std::malloc(std::max<std::size_t>(count, 1) * sizeof(T)));
  if (copy == nullptr) throw std::bad_alloc();
  std::copy_n(values, count, copy);
  return copy;
}
inline char* caller_owned(const std::string& text) { return caller_owned(text.c_str(), text.size() + 1); }

inline const char* or_default(const char* text, const char* otherwise) {
  return text == nullptr ? otherwise : text;
}

}  // namespace winnow::capi

struct winnow_engine {
  std::shared_ptr<winnow::capi::SharedEngine> shared;
};

struct winnow_policy {
  winnow::Policy policy;
};

struct winnow_session {
  struct Stage {
    winnow::StageRecord record;
    std::vector<std::int32_t> kept;  // places in the prompt
  };
  std::shared_ptr<winnow::capi::SharedEngine> shared;  // before the session, which refers to it
  winnow::Session session;
  std::vector<Stage> stages;  // of the last prefill that went well
};
