// Rotary frequencies that follow the length of the conversation (rope_type "dynamic"), as transformers
// computes them: each call, prefill or decoded token, rotates its own rows with the frequencies of the length
// after it, and rows that are cached keep the rotation they got. Owned by a session of such a model. The
// length counts every token read, pruned ones included, whatever the positions (docs/models.md).
#pragma once

#include <cstdint>

#include "backends/backend.h"
#include "model/architecture.h"
#include "model/weights.h"

namespace winnow {

class DynamicRope {
 public:
  DynamicRope(const Architecture& arch, Backend& backend);

  // Fills the table's rows [first, tokens) for a call after which the conversation has `tokens` tokens.
  void prepare(std::int64_t first, std::int64_t tokens);
  const RopeTables& tables() const { return tables_; }

 private:
  const Architecture& arch_;
  Backend& backend_;
  RopeTables tables_;
};

}  // namespace winnow
