// Safetensors: one file, or a folder of shards with an index.
//
// Layout: u64 length of the header, the header {"name": {"dtype", "shape", "data_offsets": [begin, end]},
// ...,
// "__metadata__": {key: string}}, then the data the offsets count from. Nothing in the file is trusted; what
// is wrong is an Error(kBadFormat) naming the file and the tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/mapped_file.h"

namespace winnow {

struct SafetensorsTensor {
  std::string name;
  std::string dtype_name;           // as in the file: "F32", "I64", ...
  std::optional<DType> dtype;       // none when winnow cannot read the type; an error only where it is used
  std::vector<std::int64_t> shape;  // slowest first; empty for a scalar; extents may be 0
  std::span<const std::byte> data;
};

class SafetensorsFile {
 public:
  using Tensors = std::map<std::string, SafetensorsTensor, std::less<>>;

  // Maps the file and reads its header. Throws Error.
  explicit SafetensorsFile(const std::string& path);
  // Reads `bytes`, which must outlive the object; `name` stands for the file in messages.
  SafetensorsFile(std::span<const std::byte> bytes, std::string name);

  const std::string& path() const { return path_; }
  const Tensors& tensors() const { return tensors_; }
  const SafetensorsTensor* find(std::string_view name) const;  // nullptr when there is none
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  void drop_pages() const {
    if (file_) file_->drop_pages();
  }

 private:
  void read_header(std::span<const std::byte> bytes);

  std::string path_;
  std::optional<MappedFile> file_;  // none when the bytes are the caller's
  Tensors tensors_;
  std::map<std::string, std::string> metadata_;
};

// Tensor name -> shard's file name, out of a model.safetensors.index.json. A shard must be a plain file name,
// so that it cannot lie outside the folder.
std::map<std::string, std::string> parse_safetensors_index(std::string_view text, const std::string& file);

// model.safetensors, or all the shards of model.safetensors.index.json.
class SafetensorsFolder {
 public:
  explicit SafetensorsFolder(const std::string& folder);

  // Sorted by name. The pointers live as long as this object.
  const std::vector<const SafetensorsTensor*>& tensors() const { return tensors_; }

  void drop_pages() const {
    for (const SafetensorsFile& file : files_) file.drop_pages();
  }

 private:
  void open_shards(const std::string& folder, const std::string& index_path);

  std::vector<SafetensorsFile> files_;
  std::vector<const SafetensorsTensor*> tensors_;
};

}  // namespace winnow
