#include "formats/mapped_weights.h"

#include <xxhash.h>

#include <algorithm>
#include <memory>

#include "core/byte_reader.h"
#include "core/check.h"
#include "core/error.h"
#include "formats/dequantize.h"

namespace winnow {
namespace {

struct MatrixShape {
  std::int64_t rows;
  std::int64_t cols;
};

// A vector is one row; of more dimensions all but the last make the rows.
MatrixShape matrix_shape(const TensorInfo& info) {
  MatrixShape shape{1, info.shape.empty() ? 1 : info.shape.back()};
  for (std::size_t i = 0; i + 1 < info.shape.size(); ++i) shape.rows *= info.shape[i];
  return shape;
}

std::span<const std::byte> stored_rows(const StoredTensor& tensor, std::int64_t cols, std::int64_t begin,
                                       std::int64_t end) {
  const std::int64_t row_bytes = dtype_bytes(tensor.info.dtype, cols);
  return tensor.data.subspan(static_cast<std::size_t>(begin * row_bytes),
                             static_cast<std::size_t>((end - begin) * row_bytes));
}

// Where the model's row `row` is stored.
std::int64_t interleaved_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t in_head = row % head_dim;
  const std::int64_t half = in_head / (head_dim / 2);
  const std::int64_t pair = in_head % (head_dim / 2);
  return row - in_head + 2 * pair + half;
}

void read_interleaved_rows(const StoredTensor& tensor, std::int64_t cols, std::int64_t begin,
                           std::int64_t end, std::span<float> out) {
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t stored = interleaved_row(row, tensor.head_dim);
    dequantize(tensor.info.dtype, stored_rows(tensor, cols, stored, stored + 1),
               out.subspan(static_cast<std::size_t>((row - begin) * cols), static_cast<std::size_t>(cols)));
  }
}

void read_interleaved_vector(const StoredTensor& tensor, std::span<float> out) {
  std::vector<float> stored(out.size());
  dequantize(tensor.info.dtype, tensor.data, stored);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = stored[static_cast<std::size_t>(interleaved_row(static_cast<std::int64_t>(i), tensor.head_dim))];
  }
}

// Copies a [tile, tile] square at a time: stored rows are read along their length and the square stays in the
// cache while it is written along the other.
void read_transposed_rows(const StoredTensor& tensor, MatrixShape shape, std::int64_t begin, std::int64_t end,
                          std::span<float> out) {
  constexpr std::int64_t kTile = 64;
  const std::int64_t element_bytes = dtype_info(tensor.info.dtype).block_bytes;
  float square[kTile][kTile];  // [col, row]
  for (std::int64_t row = begin; row < end; row += kTile) {
    const std::int64_t rows = std::min(kTile, end - row);
    for (std::int64_t col = 0; col < shape.cols; col += kTile) {
      const std::int64_t cols = std::min(kTile, shape.cols - col);
      for (std::int64_t c = 0; c < cols; ++c) {
        const auto offset = static_cast<std::size_t>(((col + c) * shape.rows + row) * element_bytes);
        dequantize(tensor.info.dtype,
                   tensor.data.subspan(offset, static_cast<std::size_t>(rows * element_bytes)),
                   {square[c], static_cast<std::size_t>(rows)});
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        float* line = out.data() + (row - begin + r) * shape.cols + col;
        for (std::int64_t c = 0; c < cols; ++c) line[c] = square[c][r];
      }
    }
  }
}

}  // namespace

void MappedWeights::add(StoredTensor tensor) {
  const std::string name = tensor.info.name;
  if (!tensors_.emplace(name, std::move(tensor)).second) {
    fail(ErrorCode::kBadFormat, "{}: two tensors stand for {}", path_, printable(name));
  }
}

void MappedWeights::add_unreadable(std::string name, std::string dtype_name) {
  unreadable_.emplace(std::move(name), std::move(dtype_name));
}

const TensorInfo* MappedWeights::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return &found->second.info;
  const auto unreadable = unreadable_.find(name);
  if (unreadable != unreadable_.end()) {
    fail(ErrorCode::kUnsupported,
         "{}: tensor {} has type {}, which winnow does not read; use F32, F16 or BF16 weights", path_,
         printable(name), printable(unreadable->second));
  }
  return nullptr;
}

std::vector<TensorInfo> MappedWeights::tensors() const {
  std::vector<TensorInfo> result;
  for (const auto& [name, tensor] : tensors_) result.push_back(tensor.info);
  return result;
}

const StoredTensor& MappedWeights::stored(const TensorInfo& tensor) const {
  const auto found = tensors_.find(tensor.name);
  check(found != tensors_.end(), "a tensor of this source");
  return found->second;
}

bool MappedWeights::has_stored_rows(const TensorInfo& tensor) const {
  const StoredTensor& stored = this->stored(tensor);
  return stored.order != StoredOrder::kTransposed && stored.addend == 0.0f && stored.info.shape.size() == 2;
}

void MappedWeights::read_stored_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                                     std::span<std::byte> out) const {
  check(has_stored_rows(tensor), "read_stored_rows: has_stored_rows()");
  const StoredTensor& stored = this->stored(tensor);
  const MatrixShape shape = matrix_shape(stored.info);
  check(0 <= begin && begin <= end && end <= shape.rows, "read_stored_rows: rows inside the tensor");
  const std::int64_t row_bytes = dtype_bytes(stored.info.dtype, shape.cols);
  check(static_cast<std::int64_t>(out.size()) == (end - begin) * row_bytes,
        "read_stored_rows: out holds the rows");
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t from =
        stored.order == StoredOrder::kInterleavedHeads ? interleaved_row(row, stored.head_dim) : row;
    const auto bytes = stored_rows(stored, shape.cols, from, from + 1);
    std::copy(bytes.begin(), bytes.end(), out.begin() + (row - begin) * row_bytes);
  }
}

void MappedWeights::read_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                              std::span<float> out) const {
  const StoredTensor& stored = this->stored(tensor);
  const MatrixShape shape = matrix_shape(stored.info);
  check(0 <= begin && begin <= end && end <= shape.rows, "read_rows: rows inside the tensor");
  check(static_cast<std::int64_t>(out.size()) == (end - begin) * shape.cols, "read_rows: out holds the rows");
  if (out.empty()) return;
  switch (stored.order) {
    case StoredOrder::kPlain:
      dequantize(stored.info.dtype, stored_rows(stored, shape.cols, begin, end), out);
      break;
    case StoredOrder::kTransposed: read_transposed_rows(stored, shape, begin, end, out); break;
    case StoredOrder::kInterleavedHeads:
      if (stored.info.shape.size() == 1) {
        read_interleaved_vector(stored, out);
      } else {
        read_interleaved_rows(stored, shape.cols, begin, end, out);
      }
      break;
  }
  if (stored.addend == 0.0f) return;
  for (float& value : out) value += stored.addend;
}

std::int64_t MappedWeights::weight_bytes() const {
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors_) bytes += static_cast<std::int64_t>(tensor.data.size());
  return bytes;
}

std::uint64_t MappedWeights::content_hash() const {
  constexpr std::size_t kHashedBytes = 4096;
  const std::unique_ptr<XXH64_state_t, XXH_errorcode (*)(XXH64_state_t*)> state(XXH64_createState(),
                                                                                XXH64_freeState);
  if (state == nullptr) fail(ErrorCode::kOutOfMemory, "{}: no memory to hash it", path_);
  XXH64_reset(state.get(), /*seed=*/0);
  for (const auto& [name, tensor] : tensors_) {  // sorted by name
    const std::vector<std::int64_t>& shape = tensor.info.shape;
    XXH64_update(state.get(), name.c_str(), name.size() + 1);  // with the 0: where the name ends
    if (!shape.empty()) XXH64_update(state.get(), shape.data(), shape.size() * sizeof shape[0]);
    const auto head = tensor.data.first(std::min(tensor.data.size(), kHashedBytes));
    if (!head.empty()) XXH64_update(state.get(), head.data(), head.size());
  }
  return XXH64_digest(state.get());
}

}  // namespace winnow
