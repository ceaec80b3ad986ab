#include "cli/provenance.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <omp.h>

#include <array>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "cli/ranks.h"
#include "core/cpu_info.h"

namespace winnow::cli {
namespace {

// The widest vector extension that matters to speed here, as the system reports it.
std::string simd() {
  const std::string flags = " " + cpu_info("flags") + " ";
  for (const char* name : {"amx_bf16", "avx512_bf16", "avx512f", "avx2", "sse4_1"}) {
    if (flags.find(fmt::format(" {} ", name)) != std::string::npos) return name;
  }
  return "unknown";
}

const char* split_name(const Engine& engine) {
  return engine.part().layers.count < engine.arch().layers ? "layers" : "tensor";
}

}  // namespace

std::string file_name(const std::string& path) {
  if (path == "-") return "stdin";
  const std::filesystem::path full(path);
  return full.has_filename() ? full.filename().string() : full.parent_path().filename().string();
}

std::string hex_hash(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

nlohmann::json machine_json() {
  const std::string cpu = cpu_info("model name");
  return {{"cpu", cpu.empty() ? "unknown" : cpu}, {"cores", omp_get_num_procs()}, {"simd", simd()}};
}

nlohmann::json model_json(const WeightSource& source, const Architecture& arch, bool random) {
  return {{"name", arch.name},
          {"file", random ? nlohmann::json() : nlohmann::json(file_name(source.path()))},
          {"shape_hash", arch.shape_hash()},
          {"content_hash", hex_hash(source.content_hash())},
          {"random", random}};
}

nlohmann::json provenance(const char* schema, const Engine& engine, const ModelOptions& options) {
  return {{"schema", schema},
          {"winnow", WINNOW_VERSION},
          {"date", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
          {"machine", machine_json()},
          {"model", model_json(engine.source(), engine.arch(), engine.random())},
          {"device", devices_text(options)},
          {"devices", engine.ranks() == nullptr ? 1 : engine.ranks()->size()},
          {"split", engine.ranks() == nullptr ? nlohmann::json() : nlohmann::json(split_name(engine))},
          {"backend", engine.backend().description()},
          {"precision", options.precision},
          {"kv", options.kv},
          {"threads", options.threads == 0 ? omp_get_max_threads() : options.threads},
          {"seed", options.seed}};
}

}  // namespace winnow::cli
