#include "model/model_part.h"

#include <algorithm>

#include "core/check.h"
#include "core/error.h"

namespace winnow {
namespace {

// `count` in `ranks` runs as even as whole units allow, larger ones first; a rest goes to the last.
Range share_of(std::int64_t count, std::int64_t unit, int ranks, int rank) {
  const std::int64_t units = count / unit, each = units / ranks, larger = units % ranks;
  const auto begin_of = [&](std::int64_t r) {
    return r == ranks ? count : unit * (r * each + std::min(r, larger));
  };
  return {begin_of(rank), begin_of(rank + 1) - begin_of(rank)};
}

// Columns are dealt out in whole blocks of quantised weights where there are enough of them.
std::int64_t column_unit(std::int64_t columns, int ranks) {
  for (const std::int64_t unit : {256, 32, 8}) {
    if (columns % unit == 0 && columns / unit >= ranks) return unit;
  }
  return 1;
}

ModelPart tensor_part(const Architecture& arch, int ranks, int rank) {
  ModelPart part = whole_model(arch);
  part.kv_heads = share_of(arch.kv_heads, 1, ranks, rank);
  part.heads = part.kv_heads.times(arch.heads / arch.kv_heads);
  part.ffn = share_of(arch.ffn_dim, column_unit(arch.ffn_dim, ranks), ranks, rank);
  part.vocab = share_of(arch.vocab, column_unit(arch.vocab, ranks), ranks, rank);
  part.sums_whole = false;
  part.adds_bias = rank == 0;
  return part;
}

ModelPart layers_part(const Architecture& arch, int ranks, int rank) {
  ModelPart part = whole_model(arch);
  part.layers = share_of(arch.layers, 1, ranks, rank);
  if (rank != ranks - 1) part.vocab = {arch.vocab, 0};
  return part;
}

}  // namespace

ModelPart whole_model(const Architecture& arch) {
  return {.layers = {0, arch.layers},
          .heads = {0, arch.heads},
          .kv_heads = {0, arch.kv_heads},
          .ffn = {0, arch.ffn_dim},
          .vocab = {0, arch.vocab}};
}

std::vector<ModelPart> split_model(const Architecture& arch, Split split, int ranks) {
  check(ranks >= 1, "split_model: one rank or more");
  if (ranks == 1) return {whole_model(arch)};
  if (split == Split::kTensor && arch.kv_heads < ranks) {
    fail(ErrorCode::kUnsupported,
         "--split tensor: {} has {} kv head{}, too few for {} ranks with one each; use --split layers, or {} "
         "device{}",
         arch.name, arch.kv_heads, arch.kv_heads == 1 ? "" : "s", ranks, arch.kv_heads,
         arch.kv_heads == 1 ? "" : "s");
  }
  if (split == Split::kLayers && arch.layers < ranks) {
    fail(ErrorCode::kUnsupported, "--split layers: {} has {} layers, too few for {} ranks", arch.name,
         arch.layers, ranks);
  }
  std::vector<ModelPart> parts;
  for (int rank = 0; rank < ranks; ++rank) {
    parts.push_back(split == Split::kTensor ? tensor_part(arch, ranks, rank)
                                            : layers_part(arch, ranks, rank));
  }
  return parts;
}

Architecture part_of(const Architecture& arch, const ModelPart& part) {
  Architecture own = arch;
  own.layers = part.layers.count;
  own.heads = part.heads.count;
  own.kv_heads = part.kv_heads.count;
  own.ffn_dim = part.ffn.count;
  own.vocab = part.vocab.count;
  return own;
}

int rank_of_layer(const std::vector<ModelPart>& parts, std::int64_t layer) {
  for (std::size_t rank = 0; rank < parts.size(); ++rank) {
    if (parts[rank].layers.contains(layer)) return static_cast<int>(rank);
  }
  check(false, "rank_of_layer: a layer of the model");
  return 0;
}

}  // namespace winnow
