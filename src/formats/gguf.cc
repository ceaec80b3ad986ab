#include "formats/gguf.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <limits>

#include "core/byte_reader.h"
#include "core/error.h"

namespace winnow {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::int64_t kDefaultAlignment = 32;
constexpr std::int64_t kMaxAlignment = 1 << 20;
constexpr std::uint32_t kMaxDimensions = 4;
constexpr int kMaxArrayDepth = 4;
// The least a key and a tensor can take in the file: they bound the counts of the header.
constexpr std::uint64_t kMinKeyBytes = 8 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;

constexpr std::array<std::string_view, 13> kTypeNames = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                                         "int32",  "float32", "bool",   "string", "array",
                                                         "uint64", "int64",   "float64"};

// Names of the tensor types of ggml, for messages; "" where a number was never used or withdrawn.
constexpr std::array<std::string_view, 40> kTensorTypeNames = {
    "F32",    "F16",   "Q4_0",  "Q4_1",   "",      "",      "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
    "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
    "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
    "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4"};

std::string_view type_name(GgufType type) { return kTypeNames[static_cast<std::size_t>(type)]; }

// Bytes of one element; 0 for strings and arrays, whose size is in the file.
std::uint64_t fixed_bytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool: return 1;
    case GgufType::kUint16:
    case GgufType::kInt16: return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32: return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64: return 8;
    case GgufType::kString:
    case GgufType::kArray: return 0;
  }
  return 0;
}

bool is_integer(GgufType type) {
  return fixed_bytes(type) != 0 && type != GgufType::kFloat32 && type != GgufType::kFloat64 &&
         type != GgufType::kBool;
}

bool is_number(GgufType type) {
  return is_integer(type) || type == GgufType::kFloat32 || type == GgufType::kFloat64;
}

std::optional<DType> readable_dtype(std::uint32_t type) {
  switch (type) {
    case 0: return DType::kF32;
    case 1: return DType::kF16;
    case 2: return DType::kQ4_0;
    case 3: return DType::kQ4_1;
    case 6: return DType::kQ5_0;
    case 7: return DType::kQ5_1;
    case 8: return DType::kQ8_0;
    case 10: return DType::kQ2_K;
    case 11: return DType::kQ3_K;
    case 12: return DType::kQ4_K;
    case 13: return DType::kQ5_K;
    case 14: return DType::kQ6_K;
    case 15: return DType::kQ8_K;
    case 20: return DType::kIQ4_NL;
    case 30: return DType::kBF16;
    default: return std::nullopt;
  }
}

// Reads the file front to back, checking as it goes.
class DirectoryReader {
 public:
  DirectoryReader(std::span<const std::byte> bytes, const std::string& path)
      : bytes_(bytes), path_(path), reader_(bytes, path) {}

  std::map<std::string_view, GgufValue> read_metadata();
  std::vector<GgufTensor> read_tensors(std::int64_t alignment);

 private:
  // A tensor whose place in the data section is known but not yet checked.
  struct Placement {
    std::uint64_t offset;
    std::uint64_t bytes;
  };

  void read_header();
  std::string_view read_string(std::string_view what);
  GgufType read_type(std::string_view key);
  GgufValue read_value(std::string_view key);
  void skip_elements(std::string_view key, GgufType type, std::uint64_t count, int depth);
  Placement read_tensor(GgufTensor& tensor);
  void read_shape(GgufTensor& tensor);
  void read_dtype(GgufTensor& tensor);
  std::uint64_t tensor_bytes(const GgufTensor& tensor) const;

  std::span<const std::byte> bytes_;
  const std::string& path_;
  ByteReader reader_;
  std::uint64_t tensor_count_ = 0;
  std::uint64_t key_count_ = 0;
};

void DirectoryReader::read_header() {
  const auto magic = reader_.read<std::uint32_t>("the magic number");
  if (magic != kMagic) {
    fail(ErrorCode::kBadFormat, "{}: is not a GGUF file: it starts with 0x{:08x}, not with \"GGUF\"", path_,
         magic);
  }
  const auto version = reader_.read<std::uint32_t>("the version");
  if ((version & 0xffff) == 0 && version != 0) {
    fail(ErrorCode::kUnsupported, "{}: is a big-endian GGUF file; winnow reads little-endian ones", path_);
  }
  if (version != 2 && version != 3) {
    fail(ErrorCode::kUnsupported, "{}: GGUF version {} is not supported; convert the model to version 2 or 3",
         path_, version);
  }
  tensor_count_ = reader_.read<std::uint64_t>("the tensor count");
  key_count_ = reader_.read<std::uint64_t>("the key count");
  if (key_count_ > reader_.remaining() / kMinKeyBytes) {
    fail(ErrorCode::kBadFormat,
         "{}: key count {} is more than {} bytes can hold: the file is cut short or damaged", path_,
         key_count_, reader_.remaining());
  }
  if (tensor_count_ > reader_.remaining() / kMinTensorBytes) {
    fail(ErrorCode::kBadFormat,
         "{}: tensor count {} is more than {} bytes can hold: the file is cut short or damaged", path_,
         tensor_count_, reader_.remaining());
  }
}

std::string_view DirectoryReader::read_string(std::string_view what) {
  const auto length = reader_.read<std::uint64_t>(what);
  return reader_.read_text(length, what);
}

GgufType DirectoryReader::read_type(std::string_view key) {
  const auto type = reader_.read<std::uint32_t>("a value type");
  if (type >= kTypeNames.size()) {
    fail(ErrorCode::kBadFormat, "{}: key {} has the unknown value type {}", path_, printable(key), type);
  }
  return static_cast<GgufType>(type);
}

// Moves past `count` elements of an array (or one value), checking their bounds.
void DirectoryReader::skip_elements(std::string_view key, GgufType type, std::uint64_t count, int depth) {
  if (depth > kMaxArrayDepth) {
    fail(ErrorCode::kBadFormat, "{}: key {}: arrays are nested more than {} deep", path_, printable(key),
         kMaxArrayDepth);
  }
  const std::uint64_t least_bytes = type == GgufType::kString  ? 8
                                    : type == GgufType::kArray ? 12
                                                               : fixed_bytes(type);
  if (count > reader_.remaining() / least_bytes) {
    fail(ErrorCode::kBadFormat,
         "{}: key {}: {} {} elements do not fit the {} bytes left: the file is cut short or damaged", path_,
         printable(key), count, type_name(type), reader_.remaining());
  }
  if (const std::uint64_t bytes = fixed_bytes(type)) {
    reader_.read_bytes(count * bytes, "a value");
    return;
  }
  for (std::uint64_t i = 0; i < count; ++i) {
    if (type == GgufType::kString) {
      read_string("a string");
    } else {
      const GgufType inner = read_type(key);
      const auto inner_count = reader_.read<std::uint64_t>("an array length");
      skip_elements(key, inner, inner_count, depth + 1);
    }
  }
}

GgufValue DirectoryReader::read_value(std::string_view key) {
  const GgufType type = read_type(key);
  GgufType element_type = type;
  std::uint64_t count = 1;
  if (type == GgufType::kArray) {
    element_type = read_type(key);
    count = reader_.read<std::uint64_t>("an array length");
  }
  const std::size_t begin = reader_.offset();
  skip_elements(key, element_type, count, /*depth=*/1);
  // The count fits: that many elements were found in memory.
  return {type, element_type, static_cast<std::int64_t>(count),
          bytes_.subspan(begin, reader_.offset() - begin)};
}

std::map<std::string_view, GgufValue> DirectoryReader::read_metadata() {
  read_header();
  std::map<std::string_view, GgufValue> metadata;
  for (std::uint64_t i = 0; i < key_count_; ++i) {
    const std::string_view key = read_string("a key");
    if (key.empty()) fail(ErrorCode::kBadFormat, "{}: metadata key {} has no name", path_, i);
    const GgufValue value = read_value(key);
    if (!metadata.emplace(key, value).second) {
      fail(ErrorCode::kBadFormat, "{}: key {} appears twice", path_, printable(key));
    }
  }
  return metadata;
}

void DirectoryReader::read_shape(GgufTensor& tensor) {
  const auto dimensions = reader_.read<std::uint32_t>("a dimension count");
  if (dimensions == 0 || dimensions > kMaxDimensions) {
    fail(ErrorCode::kBadFormat, "{}: tensor {} has {} dimensions; 1 to {} are possible", path_,
         printable(tensor.name), dimensions, kMaxDimensions);
  }
  tensor.shape.resize(dimensions);
  std::int64_t elements = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto extent = reader_.read<std::int64_t>("a dimension");
    if (extent <= 0 || __builtin_mul_overflow(elements, extent, &elements)) {
      fail(ErrorCode::kBadFormat, "{}: tensor {}: dimension {} is {}, which is impossible", path_,
           printable(tensor.name), i, extent);
    }
    tensor.shape[dimensions - 1 - i] = extent;
  }
}

void DirectoryReader::read_dtype(GgufTensor& tensor) {
  const auto type = reader_.read<std::uint32_t>("a tensor type");
  const std::optional<DType> dtype = readable_dtype(type);
  if (!dtype) {
    const std::string_view name = type < kTensorTypeNames.size() ? kTensorTypeNames[type] : "";
    fail(ErrorCode::kUnsupported,
         "{}: tensor {} has type {} ({}), which winnow does not read; use a file with F32, F16, BF16, Q4_0, "
         "Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL or Q2_K to Q8_K tensors",
         path_, printable(tensor.name), type, name.empty() ? "unknown" : name);
  }
  tensor.dtype = *dtype;
}

std::uint64_t DirectoryReader::tensor_bytes(const GgufTensor& tensor) const {
  const DTypeInfo info = dtype_info(tensor.dtype);
  const std::int64_t row = tensor.shape.back();
  if (row % info.block_elements != 0) {
    fail(ErrorCode::kBadFormat, "{}: tensor {}: rows of {} elements are no whole number of {} blocks of {}",
         path_, printable(tensor.name), row, info.name, info.block_elements);
  }
  std::int64_t blocks = row / info.block_elements;
  for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i)
    blocks *= tensor.shape[i];  // no more than the elements
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(blocks, info.block_bytes, &bytes)) {
    fail(ErrorCode::kBadFormat, "{}: tensor {} is impossibly large", path_, printable(tensor.name));
  }
  return static_cast<std::uint64_t>(bytes);
}

DirectoryReader::Placement DirectoryReader::read_tensor(GgufTensor& tensor) {
  tensor.name = read_string("a tensor name");
  if (tensor.name.empty()) fail(ErrorCode::kBadFormat, "{}: a tensor has no name", path_);
  read_shape(tensor);
  read_dtype(tensor);
  const auto offset = reader_.read<std::uint64_t>("a tensor offset");
  return {offset, tensor_bytes(tensor)};
}

std::vector<GgufTensor> DirectoryReader::read_tensors(std::int64_t alignment) {
  std::vector<GgufTensor> tensors(tensor_count_);
  std::vector<Placement> placements(tensor_count_);
  for (std::size_t i = 0; i < tensors.size(); ++i) placements[i] = read_tensor(tensors[i]);

  const std::uint64_t mask = static_cast<std::uint64_t>(alignment) - 1;
  const std::uint64_t data_begin = (reader_.offset() + mask) & ~mask;
  const std::uint64_t data_bytes = data_begin < bytes_.size() ? bytes_.size() - data_begin : 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto [offset, bytes] = placements[i];
    if ((offset & mask) != 0) {
      fail(ErrorCode::kBadFormat, "{}: tensor {}: offset {} is not a multiple of the alignment {}", path_,
           printable(tensors[i].name), offset, alignment);
    }
    if (offset > data_bytes || bytes > data_bytes - offset) {
      fail(ErrorCode::kBadFormat,
           "{}: tensor {}: {} bytes at offset {} are outside the data section of {} bytes: the file is cut "
           "short or "
           "damaged",
           path_, printable(tensors[i].name), bytes, offset, data_bytes);
    }
    tensors[i].data = bytes_.subspan(data_begin + offset, bytes);
  }
  return tensors;
}

template <class T>
T load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

// Nothing when a uint64 is too large.
std::optional<std::int64_t> decode_integer(GgufType type, const std::byte* data) {
  switch (type) {
    case GgufType::kUint8: return load<std::uint8_t>(data);
    case GgufType::kInt8: return load<std::int8_t>(data);
    case GgufType::kUint16: return load<std::uint16_t>(data);
    case GgufType::kInt16: return load<std::int16_t>(data);
    case GgufType::kUint32: return load<std::uint32_t>(data);
    case GgufType::kInt32: return load<std::int32_t>(data);
    case GgufType::kInt64: return load<std::int64_t>(data);
    default: break;
  }
  const auto value = load<std::uint64_t>(data);
  if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
  return static_cast<std::int64_t>(value);
}

double decode_number(GgufType type, const std::byte* data) {
  if (type == GgufType::kFloat32) return load<float>(data);
  if (type == GgufType::kFloat64) return load<double>(data);
  if (type == GgufType::kUint64) return static_cast<double>(load<std::uint64_t>(data));
  return static_cast<double>(*decode_integer(type, data));
}

std::int64_t checked_alignment(const GgufFile& file) {
  const std::int64_t alignment = file.find_integer("general.alignment").value_or(kDefaultAlignment);
  if (alignment <= 0 || alignment > kMaxAlignment ||
      !std::has_single_bit(static_cast<std::uint64_t>(alignment))) {
    fail(ErrorCode::kBadFormat, "{}: general.alignment is {}; it must be a power of two up to {}",
         file.path(), alignment, kMaxAlignment);
  }
  return alignment;
}

}  // namespace

GgufFile::GgufFile(const std::string& path) : path_(path), file_(path) { read_directory(file_->bytes()); }

GgufFile::GgufFile(std::span<const std::byte> bytes, std::string name) : path_(std::move(name)) {
  read_directory(bytes);
}

void GgufFile::read_directory(std::span<const std::byte> bytes) {
  DirectoryReader reader(bytes, path_);
  metadata_ = reader.read_metadata();
  tensors_ = reader.read_tensors(checked_alignment(*this));
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (!tensor_index_.emplace(tensors_[i].name, i).second) {
      fail(ErrorCode::kBadFormat, "{}: tensor {} appears twice", path_, printable(tensors_[i].name));
    }
  }
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

void GgufFile::fail_missing(std::string_view key) const {
  fail(ErrorCode::kBadFormat, "{}: the metadata key {} is missing; convert the model again", path_, key);
}

void GgufFile::fail_type(std::string_view key, const GgufValue& value, std::string_view expected) const {
  const bool is_array = value.type == GgufType::kArray;
  fail(ErrorCode::kBadFormat, "{}: key {} is {}{}, expected {}", path_, key, is_array ? "an array of " : "a ",
       type_name(value.element_type), expected);
}

std::optional<std::int64_t> GgufFile::find_integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!is_integer(value->type)) fail_type(key, *value, "an integer");
  const std::optional<std::int64_t> result = decode_integer(value->type, value->data.data());
  if (!result) fail(ErrorCode::kBadFormat, "{}: key {}: the integer is larger than 2^63 - 1", path_, key);
  return result;
}

std::optional<double> GgufFile::find_number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!is_number(value->type)) fail_type(key, *value, "a number");
  return decode_number(value->type, value->data.data());
}

std::optional<bool> GgufFile::find_boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kBool) fail_type(key, *value, "a bool");
  return value->data[0] != std::byte{0};
}

std::optional<std::string_view> GgufFile::find_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kString) fail_type(key, *value, "a string");
  ByteReader reader(value->data, path_);
  const auto length = reader.read<std::uint64_t>(key);
  return reader.read_text(length, key);
}

std::optional<std::vector<std::int64_t>> GgufFile::find_integers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kArray || !is_integer(value->element_type)) {
    fail_type(key, *value, "an array of integers");
  }
  std::vector<std::int64_t> result(static_cast<std::size_t>(value->count));
  for (std::size_t i = 0; i < result.size(); ++i) {
    const auto element =
        decode_integer(value->element_type, value->data.data() + i * fixed_bytes(value->element_type));
    if (!element)
      fail(ErrorCode::kBadFormat, "{}: key {}: element {} is larger than 2^63 - 1", path_, key, i);
    result[i] = *element;
  }
  return result;
}

std::optional<std::vector<double>> GgufFile::find_numbers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kArray || !is_number(value->element_type)) {
    fail_type(key, *value, "an array of numbers");
  }
  std::vector<double> result(static_cast<std::size_t>(value->count));
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = decode_number(value->element_type, value->data.data() + i * fixed_bytes(value->element_type));
  }
  return result;
}

std::optional<std::vector<std::string_view>> GgufFile::find_strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kArray || value->element_type != GgufType::kString) {
    fail_type(key, *value, "an array of strings");
  }
  std::vector<std::string_view> result(static_cast<std::size_t>(value->count));
  ByteReader reader(value->data, path_);
  for (std::string_view& text : result) {
    const auto length = reader.read<std::uint64_t>(key);
    text = reader.read_text(length, key);
  }
  return result;
}

}  // namespace winnow
