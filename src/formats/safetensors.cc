#include "formats/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/byte_reader.h"
#include "core/error.h"
#include "formats/json_text.h"

namespace winnow {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr std::size_t kMaxIndexBytes = 100'000'000;

struct DtypeRow {
  std::string_view name;
  std::int64_t bytes;
  std::optional<DType> dtype;
};

constexpr DtypeRow kDtypes[] = {
    {"F32", 4, DType::kF32},   {"F16", 2, DType::kF16},      {"BF16", 2, DType::kBF16},
    {"F64", 8, std::nullopt},  {"I64", 8, std::nullopt},     {"U64", 8, std::nullopt},
    {"I32", 4, std::nullopt},  {"U32", 4, std::nullopt},     {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt},  {"I8", 1, std::nullopt},      {"U8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt}, {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt},
    {"C64", 8, std::nullopt},
};

const DtypeRow* find_dtype(std::string_view name) {
  const auto* found = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                   [&](const DtypeRow& row) { return row.name == name; });
  return found == std::end(kDtypes) ? nullptr : found;
}

// Reads one entry of the header.
class EntryReader {
 public:
  EntryReader(const std::string& file, const std::string& name, const Json& entry)
      : file_(file), name_(name), entry_(entry) {}

  SafetensorsTensor read(std::span<const std::byte> data) const {
    SafetensorsTensor tensor;
    tensor.name = name_;
    tensor.dtype_name = member("dtype", Json::value_t::string).get<std::string>();
    tensor.shape = integers("shape");
    const std::vector<std::int64_t> offsets = integers("data_offsets");
    if (offsets.size() != 2)
      fail_entry(fmt::format("data_offsets has {} elements, expected 2", offsets.size()));
    const std::int64_t begin = offsets[0];
    const std::int64_t end = offsets[1];
    if (begin > end || end > static_cast<std::int64_t>(data.size())) {
      fail_entry(fmt::format(
          "data_offsets [{}, {}] are outside the data of {} bytes: the file is cut short or damaged", begin,
          end, data.size()));
    }
    check_size(tensor, end - begin);
    tensor.data = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    if (const DtypeRow* row = find_dtype(tensor.dtype_name)) tensor.dtype = row->dtype;
    return tensor;
  }

 private:
  [[noreturn]] void fail_entry(const std::string& what) const {
    fail(ErrorCode::kBadFormat, "{}: tensor {}: {}", file_, printable(name_), what);
  }

  const Json& member(const char* key, Json::value_t type) const {
    if (!entry_.is_object()) fail_entry("its header entry is no object");
    const auto found = entry_.find(key);
    if (found == entry_.end() || found->type() != type) {
      fail_entry(fmt::format("{} is missing or no {}", key, Json(type).type_name()));
    }
    return *found;
  }

  // Non-negative integers below 2^63.
  std::vector<std::int64_t> integers(const char* key) const {
    std::vector<std::int64_t> result;
    for (const Json& element : member(key, Json::value_t::array)) {
      if (!element.is_number_unsigned() || element.get<std::uint64_t>() >> 63 != 0) {
        fail_entry(fmt::format("{} holds {}, expected integers of 0 or more", key,
                               printable(element.dump(-1, ' ', true, Json::error_handler_t::replace))));
      }
      result.push_back(element.get<std::int64_t>());
    }
    return result;
  }

  // A type this reader has never heard of has an unknown size, so only its offsets are checked.
  void check_size(const SafetensorsTensor& tensor, std::int64_t bytes) const {
    const DtypeRow* row = find_dtype(tensor.dtype_name);
    std::int64_t expected = row != nullptr ? row->bytes : 1;
    for (const std::int64_t extent : tensor.shape) {
      if (__builtin_mul_overflow(expected, extent, &expected)) fail_entry("its shape is impossibly large");
    }
    if (row != nullptr && bytes != expected) {
      fail_entry(fmt::format("it has {} bytes of data, but its shape and dtype {} make {}", bytes,
                             tensor.dtype_name, expected));
    }
  }

  const std::string& file_;
  const std::string& name_;
  const Json& entry_;
};

void check_overlap(const SafetensorsFile::Tensors& tensors, const std::string& file) {
  std::vector<const SafetensorsTensor*> by_place;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.data.empty()) by_place.push_back(&tensor);
  }
  std::sort(by_place.begin(), by_place.end(), [](const SafetensorsTensor* a, const SafetensorsTensor* b) {
    return a->data.data() < b->data.data();
  });
  for (std::size_t i = 1; i < by_place.size(); ++i) {
    const auto& before = by_place[i - 1]->data;
    if (by_place[i]->data.data() < before.data() + before.size()) {
      fail(ErrorCode::kBadFormat, "{}: the data of tensors {} and {} overlap", file,
           printable(by_place[i - 1]->name), printable(by_place[i]->name));
    }
  }
}

std::map<std::string, std::string> read_metadata(const Json& metadata, const std::string& file) {
  if (!metadata.is_object()) fail(ErrorCode::kBadFormat, "{}: __metadata__ is no object", file);
  std::map<std::string, std::string> result;
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string())
      fail(ErrorCode::kBadFormat, "{}: __metadata__: {} is no string", file, printable(key));
    result.emplace(key, value.get<std::string>());
  }
  return result;
}

bool is_plain_file_name(const std::string& name) {
  const bool has_folder = name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos;
  return !name.empty() && !has_folder && name != "." && name != "..";
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(path) {
  read_header(file_->bytes());
}

SafetensorsFile::SafetensorsFile(std::span<const std::byte> bytes, std::string name)
    : path_(std::move(name)) {
  read_header(bytes);
}

void SafetensorsFile::read_header(std::span<const std::byte> bytes) {
  ByteReader reader(bytes, path_);
  const auto length = reader.read<std::uint64_t>("the header length");
  if (length > kMaxHeaderBytes || length > reader.remaining()) {
    fail(ErrorCode::kBadFormat,
         "{}: is not a safetensors file, or cut short: its header takes {} bytes, {} are left (at most {} "
         "are read)",
         path_, length, reader.remaining(), kMaxHeaderBytes);
  }
  const Json header = parse_json_object(reader.read_text(length, "the header"), path_, kMaxHeaderBytes);
  const auto data = reader.read_bytes(reader.remaining(), "the data");
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      metadata_ = read_metadata(entry, path_);
    } else {
      tensors_.emplace(name, EntryReader(path_, name, entry).read(data));
    }
  }
  check_overlap(tensors_, path_);
}

const SafetensorsTensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::map<std::string, std::string> parse_safetensors_index(std::string_view text, const std::string& file) {
  const Json index = parse_json_object(text, file, kMaxIndexBytes);
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object()) {
    fail(ErrorCode::kBadFormat, "{}: the key weight_map is missing or no object", file);
  }
  std::map<std::string, std::string> result;
  for (const auto& [tensor, shard] : weight_map->items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get_ref<const std::string&>())) {
      fail(ErrorCode::kBadFormat, "{}: weight_map: {}: {} is no plain file name; shards lie beside the index",
           file, printable(tensor), printable(shard.dump(-1, ' ', true, Json::error_handler_t::replace)));
    }
    result.emplace(tensor, shard.get<std::string>());
  }
  return result;
}

SafetensorsFolder::SafetensorsFolder(const std::string& folder) {
  const std::string single = folder + "/model.safetensors";
  const std::string index = folder + "/model.safetensors.index.json";
  std::error_code ignored;  // "cannot tell" ends in the message below, or in the one of opening the file
  if (std::filesystem::exists(single, ignored)) {
    files_.emplace_back(single);
    for (const auto& [name, tensor] : files_[0].tensors()) tensors_.push_back(&tensor);
  } else if (std::filesystem::exists(index, ignored)) {
    open_shards(folder, index);
  } else {
    fail(ErrorCode::kIo,
         "{}: has neither model.safetensors nor model.safetensors.index.json; other weight files "
         "(pytorch_model.bin) must be converted to safetensors",
         folder);
  }
}

void SafetensorsFolder::open_shards(const std::string& folder, const std::string& index_path) {
  const MappedFile index_file(index_path);
  const auto weight_map = parse_safetensors_index(index_file.text(), index_path);
  std::map<std::string, std::size_t> shards;  // file name -> place in files_
  for (const auto& [tensor, shard] : weight_map) {
    if (!shards.emplace(shard, files_.size()).second) continue;
    files_.emplace_back(folder + "/" + shard);
  }
  // Only now do the files stay where they are.
  for (const auto& [name, shard] : weight_map) {
    const SafetensorsFile& file = files_[shards.at(shard)];
    const SafetensorsTensor* tensor = file.find(name);
    if (tensor == nullptr) {
      fail(ErrorCode::kBadFormat, "{}: the index places tensor {} in this file, which lacks it", file.path(),
           printable(name));
    }
    tensors_.push_back(tensor);
  }
}

}  // namespace winnow
