#include "analysis/head_export.h"

#include <algorithm>
#include <filesystem>

#include "analysis/npy.h"
#include "core/atomic_file.h"
#include "core/error.h"

namespace winnow {
namespace {

std::string path_in(const std::string& folder, const std::string& name) {
  return (std::filesystem::path(folder) / name).string();
}

void prepare_folder(const std::string& folder) {
  if (folder.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot make this folder: {}", folder, error.message());
  check_writable(path_in(folder, "layer00_head00"));
}

bool chosen(const std::vector<std::int64_t>& list, std::int64_t index) {
  return std::find(list.begin(), list.end(), index) != list.end();
}

}  // namespace

void prepare_export(const HeadExportOptions& options, std::int64_t available) {
  prepare_folder(options.dump_folder);
  prepare_folder(options.map_folder);
  if (options.dump_folder.empty() || available < 0) return;
  // One more copy of a head while its file is written.
  const std::int64_t needed =
      (static_cast<std::int64_t>(options.heads.size()) + 1) * options.tokens * options.tokens * 4;
  if (needed > available) {
    fail(ErrorCode::kOutOfMemory,
         "--dump of {} heads at {} tokens needs {} MB, the system has {} MB free; choose fewer with --heads",
         options.heads.size(), options.tokens, needed / 1000000, available / 1000000);
  }
}

HeadExport::Open HeadExport::open_head() const {
  Open open;
  if (!options_.dump_folder.empty())
    open.weights.resize(static_cast<std::size_t>(options_.tokens * options_.tokens));
  if (!options_.map_folder.empty())
    open.map.emplace_back(options_.tokens, options_.map_shape, options_.map_threshold);
  return open;
}

void HeadExport::add(std::int64_t layer, std::int64_t head, const WeightChunk& chunk) {
  if (!chosen(options_.layers, layer) || !chosen(options_.heads, head)) return;
  auto found = open_.find({layer, head});
  if (found == open_.end()) found = open_.emplace(std::pair(layer, head), open_head()).first;
  Open& open = found->second;
  for (std::int64_t row = 0; row < chunk.rows && !open.weights.empty(); ++row) {
    const float* weights = chunk.weights + row * chunk.stride;
    const std::int64_t at = chunk.first_row + row;
    std::copy(weights, weights + at + 1, open.weights.begin() + at * options_.tokens);  // the rest is 0
  }
  for (AttentionMap& map : open.map) map.add(chunk);
  if (chunk.first_row + chunk.rows < options_.tokens) return;
  finish(layer, head, open);
  open_.erase(found);
}

void HeadExport::finish(std::int64_t layer, std::int64_t head, const Open& open) {
  const std::string name = fmt::format("layer{:02}_head{:02}", layer, head);
  if (!open.weights.empty()) {
    write_npy(path_in(options_.dump_folder, name + ".npy"), {options_.tokens, options_.tokens}, open.weights);
    files_.push_back(name + ".npy");
  }
  for (const AttentionMap& map : open.map) {
    map.write_png(path_in(options_.map_folder, name + ".png"));
    files_.push_back(name + ".png");
  }
}

}  // namespace winnow
