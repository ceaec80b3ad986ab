// Where a result comes from: the fields every JSON of winnow carries beside its numbers.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "cli/common.h"
#include "cli/schemas.h"
#include "runtime/engine.h"

namespace winnow::cli {

// {schema, winnow, date, machine{cpu, cores, simd}, model{name, file, shape_hash, content_hash, random},
// device, backend, precision, threads, seed}. Names of files, never the folders they lie in. `schema` is one
// of schemas.h.
nlohmann::json provenance(const char* schema, const Engine& engine, const ModelOptions& options);

nlohmann::json machine_json();
nlohmann::json model_json(const WeightSource& source, const Architecture& arch, bool random);

// Last part of a path; "-" is "stdin".
std::string file_name(const std::string& path);

std::string hex_hash(std::uint64_t hash);

}  // namespace winnow::cli
