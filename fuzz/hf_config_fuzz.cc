// config.json of a Hugging Face folder, and the architecture that is read from it.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "formats/hf_config.h"
#include "model/architecture.h"

namespace {

// A folder that holds nothing but its config.
class ConfigOnly final : public winnow::WeightSource {
 public:
  explicit ConfigOnly(nlohmann::json config) : config_(std::move(config)) {}
  const std::string& path() const override { return path_; }
  const nlohmann::json& config() const override { return config_; }
  const winnow::TensorInfo* find(std::string_view) const override { return nullptr; }
  std::vector<winnow::TensorInfo> tensors() const override { return {}; }
  void read_rows(const winnow::TensorInfo&, std::int64_t, std::int64_t, std::span<float>) const override {}
  std::int64_t weight_bytes() const override { return 0; }
  std::uint64_t content_hash() const override { return 0; }

 private:
  std::string path_ = "fuzz";
  nlohmann::json config_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const ConfigOnly source(
        winnow::parse_hf_config({reinterpret_cast<const char*>(data), size}, "fuzz/config.json"));
    winnow::read_architecture(source);
  } catch (const winnow::Error&) {
  }
  return 0;
}
