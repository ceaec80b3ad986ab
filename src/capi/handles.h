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
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "runtime/session.h"
#include "sparsity/policy.h"

namespace winnow::capi {

// An engine and whose turn it is. Sessions share it with the caller's handle.
class SharedEngine {
 public:
  explicit SharedEngine(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

  // Waits for the engine. Error(kBadArgument) in a callback of a call on it, which would wait for itself.
  class Turn {
   public:
    explicit Turn(SharedEngine& shared);
    ~Turn() { shared_.owner_ = std::thread::id(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    SharedEngine& shared_;
    std::unique_lock<std::mutex> lock_;
  };

  // Engine's own members that are const do not change after opening: they need no turn.
  const Engine& operator*() const { return *engine_; }
  const Engine* operator->() const { return engine_.get(); }

 private:
  std::unique_ptr<Engine> engine_;
  std::mutex mutex_;
  std::atomic<std::thread::id> owner_{};
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
