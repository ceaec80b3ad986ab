// HeadExport: writes attention weights of chosen layers and heads as NumPy arrays, as pictures, or both,
// while AttentionAnalysis sees them. Holds one layer's chosen heads.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "analysis/attention_map.h"
#include "analysis/block_sweep.h"

namespace winnow {

struct HeadExportOptions {
  std::vector<std::int64_t> layers, heads;  // chosen ones
  std::int64_t tokens = 0;
  std::string dump_folder;  // empty: no arrays
  std::string map_folder;   // empty: no pictures
  BlockShape map_shape;     // excluded blocks of this shape
  float map_threshold = 0;  // under this weight
};

// Makes the folders; Error(kIo) when one cannot be written to, Error(kOutOfMemory) when arrays of one layer
// do not fit into `available` bytes (negative: unknown).
void prepare_export(const HeadExportOptions& options, std::int64_t available);

class HeadExport {
 public:
  explicit HeadExport(HeadExportOptions options) : options_(std::move(options)) {}

  // As AttentionAnalysis::Tap, chunks of a head in order. With a head's last chunk its files are written:
  // layer03_head05.npy [tokens, tokens] float32 and layer03_head05.png.
  void add(std::int64_t layer, std::int64_t head, const WeightChunk& chunk);

  const std::vector<std::string>& files() const { return files_; }  // names within their folders

 private:
  struct Open {
    std::vector<float> weights;     // [tokens, tokens]; empty without arrays
    std::vector<AttentionMap> map;  // one, or none
  };

  Open open_head() const;
  void finish(std::int64_t layer, std::int64_t head, const Open& open);

  HeadExportOptions options_;
  std::map<std::pair<std::int64_t, std::int64_t>, Open> open_;  // heads not all of whose chunks are seen
  std::vector<std::string> files_;
};

}  // namespace winnow
