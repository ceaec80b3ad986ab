#include "cli/expected_memory.h"

namespace winnow::cli {

std::int64_t program_bytes(const Architecture& arch, const Backend& backend) {
  if (!backend.shares_host_memory()) return 0;
  constexpr std::int64_t kProgram = std::int64_t{48} << 20, kTokenizerEntry = 256;
  return kProgram + arch.vocab * kTokenizerEntry;
}

}  // namespace winnow::cli
