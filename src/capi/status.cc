// Versions, errors, memory.
#include <cstdlib>
#include <exception>
#include <map>
#include <new>

#include "capi/handles.h"

namespace winnow::capi {
namespace {

thread_local std::string last_message;

winnow_status status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kIo: return WINNOW_IO;
    case ErrorCode::kBadFormat: return WINNOW_BAD_FORMAT;
    case ErrorCode::kUnsupported: return WINNOW_UNSUPPORTED;
    case ErrorCode::kBadArgument: return WINNOW_BAD_ARGUMENT;
    case ErrorCode::kOutOfMemory: return WINNOW_OUT_OF_MEMORY;
  }
  return WINNOW_INTERNAL;
}

}  // namespace

winnow_status failed(winnow_status status, const char* message) noexcept {
  try {
    last_message = message;
  } catch (...) {
    last_message.clear();  // no memory for words
  }
  return status;
}

winnow_status failure() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return failed(status_of(error.code()), error.what());
  } catch (const Cancelled&) {
    return failed(WINNOW_CANCELLED, "cancelled by a callback");
  } catch (const std::bad_alloc&) {
    return failed(WINNOW_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return failed(WINNOW_INTERNAL, error.what());
  } catch (...) {
    return failed(WINNOW_INTERNAL, "an exception of unknown type");
  }
}

std::shared_ptr<Gate> Gate::of(const std::string& device) {
  const std::optional<int> gpu = cuda_device(device);
  if (!gpu) return std::make_shared<Gate>();
  static std::mutex mutex;
  static std::map<int, std::shared_ptr<Gate>> gates;  // a GPU's is never given up
  const std::lock_guard lock(mutex);
  std::shared_ptr<Gate>& gate = gates[*gpu];
  if (gate == nullptr) gate = std::make_shared<Gate>();
  return gate;
}

Turn::Turn(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {
  if (gate_->mine()) {
    fail(
        ErrorCode::kBadArgument,
        "the engine is at work: a callback may not call functions of its engine, nor of one on the same GPU");
  }
  lock_ = std::unique_lock(gate_->mutex_);
  gate_->owner_ = std::this_thread::get_id();
}

}  // namespace winnow::capi

using namespace winnow::capi;

const char* winnow_version(void) { return WINNOW_VERSION; }

int32_t winnow_abi_version(void) { return WINNOW_ABI_VERSION; }

const char* winnow_error_message(void) { return last_message.c_str(); }

void winnow_free(void* memory) { std::free(memory); }

const char* winnow_status_name(winnow_status status) {
  switch (status) {
    case WINNOW_OK: return "ok";
    case WINNOW_IO: return "i/o";
    case WINNOW_BAD_FORMAT: return "bad format";
    case WINNOW_UNSUPPORTED: return "unsupported";
    case WINNOW_BAD_ARGUMENT: return "bad argument";
    case WINNOW_OUT_OF_MEMORY: return "out of memory";
    case WINNOW_CANCELLED: return "cancelled";
    case WINNOW_INTERNAL: return "internal error";
    default: return "unknown status";
  }
}
