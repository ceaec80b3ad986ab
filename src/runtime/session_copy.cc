// Session: copies. What is cached is copied as it stands, room included, so that the backend's layout does
// not matter here.
#include <algorithm>

#include "core/check.h"
#include "runtime/ranks.h"
#include "runtime/session.h"

namespace winnow {
namespace {

Buffer copy_of(const Buffer& from, Backend& backend) {
  Buffer copy = backend.allocate(from.bytes());
  if (from.bytes() == 0) return copy;
  if (backend.shares_host_memory()) {
    backend.download(from.as<>(), copy.as<>(), from.bytes());
  } else {
    const Buffer host = Buffer::host(from.bytes());
    backend.download(from.as<>(), host.as<>(), from.bytes());
    backend.upload(host.as<>(), copy.as<>(), from.bytes());
  }
  return copy;
}

}  // namespace

bool Session::complete() const {
  return std::all_of(kv_.begin(), kv_.end(), [&](const LayerKv& kv) { return kv.rows == next_position_; });
}

std::unique_ptr<Session> Session::copy() const {
  auto other = std::make_unique<Session>(engine_);
  if (Leader* leader = engine_.leader()) leader->copy_session(number_, other->number_);
  copy_to(*other);
  return other;
}

void Session::copy_to(Session& other) const {
  for (std::size_t i = 0; i < kv_.size(); ++i) {
    const LayerKv& from = kv_[i];
    LayerKv& to = other.kv_[i];
    to.k = copy_of(from.k, engine_.backend());
    to.v = copy_of(from.v, engine_.backend());
    to.rows = from.rows;
    to.capacity = from.capacity;
    to.positions = from.positions;
  }
  other.positions_ = positions_;
  other.next_position_ = next_position_;
  other.logits_ = logits_;
  other.attention_ = attention_;
}

std::unique_ptr<Session> Session::copy_prefix(std::int64_t tokens) const {
  check(complete() && tokens >= 1 && tokens <= next_position_, "a prefix of caches that hold every token");
  std::unique_ptr<Session> other = copy();
  if (Leader* leader = engine_.leader()) leader->cut_session(other->number_, tokens);
  other->cut_to(tokens);
  return other;
}

void Session::cut_to(std::int64_t tokens) {
  for (LayerKv& kv : kv_) {
    kv.rows = tokens;
    kv.positions.resize(static_cast<std::size_t>(tokens));
  }
  next_position_ = tokens;
}

std::int64_t Session::memory_bytes() const {
  std::int64_t bytes =
      Workspace::bytes(engine_.part_arch(), engine_.backend().compute_dtype(), workspace_.chunk_rows()) +
      static_cast<std::int64_t>(logits_.size() * sizeof(float));
  for (const LayerKv& kv : kv_) bytes += kv.bytes();
  return bytes;
}

}  // namespace winnow
