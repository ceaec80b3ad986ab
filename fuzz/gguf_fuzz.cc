// GGUF files: reading the directory, every value, the weights as a model would, and the architecture.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "formats/gguf.h"
#include "formats/gguf_source.h"
#include "model/architecture.h"

namespace {

using winnow::GgufFile;

// Wrong types are expected: most keys fit one getter.
template <class Getter>
void try_get(const Getter& getter) {
  try {
    getter();
  } catch (const winnow::Error&) {
  }
}

void read_metadata(const GgufFile& file) {
  for (const auto& [key, value] : file.metadata()) {
    const std::string_view name = key;
    try_get([&] { file.integer(name); });
    try_get([&] { file.number(name); });
    try_get([&] { file.boolean(name); });
    try_get([&] { file.string(name); });
    try_get([&] { file.integers(name); });
    try_get([&] { file.numbers(name); });
    try_get([&] { file.strings(name); });
  }
}

void read_weights(const winnow::WeightSource& source) {
  for (const winnow::TensorInfo& info : source.tensors()) {
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < info.shape.size(); ++i) rows *= info.shape[i];
    std::vector<float> row(static_cast<std::size_t>(info.shape.back()));
    source.read_rows(info, rows - 1, rows, row);
  }
  source.content_hash();
  source.weight_bytes();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> bytes(data, size);
  try {
    GgufFile file(std::as_bytes(bytes), "fuzz.gguf");
    read_metadata(file);
    const auto source = winnow::make_gguf_source(std::move(file));
    read_weights(*source);
    winnow::read_architecture(*source);
  } catch (const winnow::Error&) {
  }
  return 0;
}
