#include "eval/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/mapped_file.h"

namespace winnow {
namespace {

constexpr std::string_view kHeader = "{\"winnow_eval_journal\":1}\n";

// True: a journal, or the beginning of its first line.
bool is_journal(std::string_view text) { return text.starts_with(kHeader) || kHeader.starts_with(text); }

void check_journal(std::string_view text, const std::string& path) {
  if (is_journal(text)) return;
  fail(ErrorCode::kBadFormat, "{}: is not a journal of winnow eval; remove it or name another output file",
       path);
}

std::string line_of(const std::string& key, const Sample& sample) {
  const nlohmann::json line = {{"key", key}, {"sample", to_json(sample)}};
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

// The samples of a journal, up to a line that is none; `text`: what of the file holds them.
std::map<std::string, Sample> read_samples(const std::string& path, std::string& text) {
  std::map<std::string, Sample> samples;
  text = kHeader;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return samples;
  const MappedFile file(path);
  const std::string_view all = file.text();
  check_journal(all, path);
  std::size_t begin = std::min(kHeader.size(), all.size());
  for (std::size_t end; (end = all.find('\n', begin)) != all.npos; begin = end + 1) {
    const auto line = nlohmann::json::parse(all.substr(begin, end - begin), nullptr, false);
    if (!line.is_object() || !line.contains("key") || !line["key"].is_string() || !line.contains("sample"))
      break;
    try {
      samples[line["key"].get<std::string>()] = sample_from_json(line["sample"], path);
    } catch (const Error&) {
      break;
    }
    text += all.substr(begin, end + 1 - begin);
  }
  return samples;
}

}  // namespace

Journal::Journal(std::string path) : path_(std::move(path)) {
  std::string kept;
  samples_ = read_samples(path_, kept);
  write_file_atomically(path_, kept);
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd_ < 0) fail(ErrorCode::kIo, "{}: cannot open for writing: {}", path_, std::strerror(errno));
}

void Journal::learn(const std::string& path, bool keep) {
  std::string ignored;
  for (const auto& [key, sample] : read_samples(path, ignored)) {
    if (samples_.contains(key)) continue;
    if (keep) {
      add(key, sample);
    } else {
      samples_.emplace(key, sample);
    }
  }
}

Journal::~Journal() {
  if (fd_ >= 0) ::close(fd_);
}

const Sample* Journal::find(const std::string& key) const {
  const auto found = samples_.find(key);
  return found == samples_.end() ? nullptr : &found->second;
}

void Journal::add(const std::string& key, const Sample& sample) {
  write(line_of(key, sample));
  samples_[key] = sample;
}

void Journal::write(const std::string& text) {
  std::string_view left = text;
  while (!left.empty()) {
    const ssize_t written = ::write(fd_, left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(ErrorCode::kIo, "{}: cannot write: {}", path_, std::strerror(errno));
    left.remove_prefix(static_cast<std::size_t>(written));
  }
}

void Journal::remove() {
  std::error_code error;
  std::filesystem::remove(path_, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot remove: {}", path_, error.message());
}

void Journal::discard(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return;
  check_journal(MappedFile(path).text(), path);
  std::filesystem::remove(path, ignored);
}

}  // namespace winnow
