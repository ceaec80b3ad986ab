#include "runtime/session_file.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/atomic_file.h"
#include "core/byte_reader.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "formats/json_text.h"
#include "runtime/kv_choice.h"

namespace winnow {
namespace {

using nlohmann::json;

constexpr std::string_view kMagic{"WNWKV\0\0\1", 8};
constexpr std::uint64_t kMaxHeaderBytes = 1 << 20;

std::string hex(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

std::string hash_of(std::string_view bytes) { return hex(XXH3_64bits(bytes.data(), bytes.size())); }

template <class T>
std::string_view bytes_of(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

// "cpu, 2 threads, bf16, AMX" -> "cpu": what decides the layout beside the precision.
std::string backend_name(const Engine& engine) {
  const std::string description = engine.backend().description();
  return description.substr(0, description.find(','));
}

// What both sides must agree on, by what it is called in messages.
json binding(const Engine& engine, const Policy& policy, std::span<const TokenId> prompt) {
  return {{"winnow", WINNOW_VERSION},
          {"backend", backend_name(engine)},
          {"precision", precision_name(engine.backend().precision())},
          {"kv", kv_type_name(engine.kv_type())},
          {"model", hex(engine.source().content_hash())},
          {"policy", policy_hash(policy)},
          {"prompt", hash_of(bytes_of(prompt))}};
}

void check_one_device(const Engine& engine) {
  if (engine.ranks() == nullptr) return;
  fail(ErrorCode::kUnsupported, "kept sessions are of one device: caches over several are not put together");
}

void append(std::string& out, Backend& backend, const Buffer& buffer) {
  const std::size_t begin = out.size();
  out.resize(begin + static_cast<std::size_t>(buffer.bytes()));
  if (buffer.bytes() > 0) backend.download(buffer.as<>(), out.data() + begin, buffer.bytes());
}

void fill(const Buffer& buffer, Backend& backend, std::span<const std::byte> bytes) {
  if (!bytes.empty()) backend.upload(bytes.data(), buffer.as<>(), static_cast<std::int64_t>(bytes.size()));
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto size = static_cast<std::int64_t>(file.tellg());
  if (!file || size < 0) fail(ErrorCode::kIo, "{}: cannot open", path);
  std::string content(static_cast<std::size_t>(size), '\0');
  file.seekg(0);
  file.read(content.data(), size);
  if (!file) fail(ErrorCode::kIo, "{}: cannot read", path);
  return content;
}

// The bytes between the magic and the checksum, both checked.
std::span<const std::byte> checked_body(const std::string& path, std::string_view content) {
  if (content.size() < kMagic.size() + sizeof(std::uint64_t) || !content.starts_with(kMagic)) {
    fail(ErrorCode::kBadFormat, "{}: is no session file of this version", path);
  }
  const std::string_view body = content.substr(0, content.size() - sizeof(std::uint64_t));
  std::uint64_t checksum = 0;
  std::memcpy(&checksum, content.data() + body.size(), sizeof checksum);
  if (XXH3_64bits(body.data(), body.size()) != checksum) {
    fail(ErrorCode::kBadFormat, "{}: the checksum is wrong: the file is cut short or damaged", path);
  }
  return std::as_bytes(std::span(body.substr(kMagic.size())));
}

void check_binding(const std::string& path, const json& header, const json& expected) {
  for (const auto& [key, value] : expected.items()) {
    if (header.value(key, json()) == value) continue;
    fail(ErrorCode::kBadArgument,
         "{}: was saved for another {} ({}, not {}): what was cached for it cannot be used here", path, key,
         printable(header.value(key, json()).dump()), value.dump());
  }
}

std::int64_t count_of(const std::string& path, const json& object, const char* key, std::int64_t most) {
  const json value = object.value(key, json());
  if (!value.is_number_integer() || value.get<double>() < 0 ||
      value.get<double>() > static_cast<double>(most)) {
    fail(ErrorCode::kBadFormat, "{}: {} is {}, must be 0 to {}", path, key, printable(value.dump()), most);
  }
  return value.get<std::int64_t>();
}

void check_positions(const std::string& path, std::span<const std::int32_t> positions, std::int64_t below) {
  std::int32_t last = -1;
  for (const std::int32_t position : positions) {
    if (position <= last || position >= below)
      fail(ErrorCode::kBadFormat, "{}: position {} is out of order or range", path, position);
    last = position;
  }
}

template <class T>
std::vector<T> read_values(ByteReader& reader, std::int64_t count, std::string_view what) {
  std::vector<T> values(static_cast<std::size_t>(count));
  const auto bytes = reader.read_bytes(values.size() * sizeof(T), what);
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

std::string policy_hash(const Policy& policy) {
  json decisive = policy_to_json(policy);
  decisive.erase("measured");
  decisive.erase("model");
  std::string text = decisive.dump();
  if (!policy.tokens.scorer_file.empty()) text += hash_of(MappedFile(policy.tokens.scorer_file).text());
  return hash_of(text);
}

std::string SessionFile::contents(const Engine& engine, const Session& session, const Policy& policy,
                                  std::span<const TokenId> prompt) {
  json header = binding(engine, policy, prompt);
  header["policy_name"] = policy.name;
  header["tokens"] = prompt.size();
  header["next_position"] = session.next_position_;
  header["compact"] = session.positions_ == PositionMode::kCompact;
  json& layers = header["layers"] = json::array();
  for (const LayerKv& kv : session.kv_) {
    layers.push_back(
        {{"rows", kv.rows}, {"capacity", kv.capacity}, {"k_bytes", kv.k.bytes()}, {"v_bytes", kv.v.bytes()}});
  }
  const std::string text = header.dump();
  const std::uint64_t text_bytes = text.size();
  std::string out(kMagic);
  out += bytes_of(std::span(&text_bytes, 1));
  out += text;
  for (const LayerKv& kv : session.kv_) {
    out += bytes_of(std::span<const std::int32_t>(kv.positions));
    append(out, engine.backend(), kv.k);
    append(out, engine.backend(), kv.v);
  }
  out += bytes_of(session.logits());
  const std::uint64_t checksum = XXH3_64bits(out.data(), out.size());
  out += bytes_of(std::span(&checksum, 1));
  return out;
}

void SessionFile::save(const std::string& path, const Engine& engine, const Session& session,
                       const Policy& policy, std::span<const TokenId> prompt) {
  check_one_device(engine);
  write_file_atomically(path, contents(engine, session, policy, prompt));
}

std::unique_ptr<Session> SessionFile::load(const std::string& path, const Engine& engine,
                                           const Policy& policy, std::span<const TokenId> prompt) {
  check_one_device(engine);
  check_policy_fits_caches(policy, engine.kv_type());  // decoding will follow it without a prefill before
  const std::string content = read_file(path);
  ByteReader reader(checked_body(path, content), path);
  const auto header_bytes = reader.read<std::uint64_t>("the header's size");
  json header = parse_json_object(reader.read_text(header_bytes, "the header"), path, kMaxHeaderBytes);
  if (!header.contains("kv")) header["kv"] = kv_type_name(KvType::kSame);  // from before there was a choice
  check_binding(path, header, binding(engine, policy, prompt));

  auto session = std::make_unique<Session>(engine);
  const Architecture& arch = engine.arch();
  session->next_position_ = count_of(path, header, "next_position", arch.context);
  if (session->next_position_ != static_cast<std::int64_t>(prompt.size()))
    fail(ErrorCode::kBadFormat, "{}: next_position is not the prompt's length", path);
  session->positions_ = header.value("compact", false) ? PositionMode::kCompact : PositionMode::kOriginal;
  session->attention_ = policy.attention;
  const json layers = header.value("layers", json());
  if (!layers.is_array() || static_cast<std::int64_t>(layers.size()) != arch.layers)
    fail(ErrorCode::kBadFormat, "{}: has not the model's {} layers", path, arch.layers);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    LayerKv& kv = session->kv_[i];
    if (!layers[i].is_object()) fail(ErrorCode::kBadFormat, "{}: layers[{}] is no object", path, i);
    const std::int64_t rows = count_of(path, layers[i], "rows", session->next_position_),
                       capacity = count_of(path, layers[i], "capacity", 2 * arch.context + 4096);
    kv.positions = read_values<std::int32_t>(reader, rows, "positions");
    check_positions(path, kv.positions, session->next_position_);
    const std::int64_t needed = engine.backend().cache_bytes(kv.type, kv.kv_heads, kv.head_dim, capacity);
    const std::int64_t k_bytes = count_of(path, layers[i], "k_bytes", needed),
                       v_bytes = count_of(path, layers[i], "v_bytes", needed);
    const auto keys = reader.read_bytes(static_cast<std::uint64_t>(k_bytes), "keys");
    const auto values = reader.read_bytes(static_cast<std::uint64_t>(v_bytes), "values");
    if (capacity > 0) engine.backend().reserve(kv, capacity);
    if (rows > capacity || kv.capacity != capacity || kv.k.bytes() != k_bytes || kv.v.bytes() != v_bytes)
      fail(ErrorCode::kBadFormat, "{}: the sizes of layer {} do not agree with the model", path, i);
    fill(kv.k, engine.backend(), keys);
    fill(kv.v, engine.backend(), values);
    kv.rows = rows;
  }
  session->logits_ = read_values<float>(reader, arch.vocab, "logits");
  if (reader.remaining() != 0)
    fail(ErrorCode::kBadFormat, "{}: has {} bytes too many", path, reader.remaining());
  return session;
}

}  // namespace winnow
