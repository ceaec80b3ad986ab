#include "cli/batch_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "cli/common.h"
#include "cli/provenance.h"
#include "cli/text_lines.h"
#include "core/atomic_file.h"
#include "core/error.h"

namespace winnow::cli {
namespace {

using nlohmann::json;

// PATH.before, or with the first number that no file has.
std::string free_name_beside(const std::string& path) {
  std::string name = path + ".before";
  for (int number = 2; std::filesystem::exists(name); ++number)
    name = fmt::format("{}.before{}", path, number);
  return name;
}

std::string prompt_hash(const BatchPrompt& prompt, const std::string& settings) {
  json decisive = {settings, prompt.prompt, prompt.max_tokens.value_or(0)};
  for (const ChatMessage& message : prompt.messages) decisive.push_back({message.role, message.content});
  const std::string text = dump_json(decisive);
  return hex_hash(XXH3_64bits(text.data(), text.size()));
}

constexpr std::string_view kLineStart = "{\"prompt_hash\":";

// Starts with kLineStart: that is how half a line is known to be ours.
std::string answer_text(json answer) {
  const std::string hash = dump_json(answer.at("prompt_hash"));
  answer.erase("prompt_hash");
  return fmt::format("{}{},{}\n", kLineStart, hash, std::string_view(dump_json(answer)).substr(1));
}

bool is_answer(const json& line) {
  return line.is_object() && line.contains("index") && line["index"].is_number_integer() &&
         line.contains("prompt_hash");
}

// What a crash in the middle of a write leaves of an answer's line.
bool is_half_answer(std::string_view line) {
  return line.starts_with(kLineStart) || kLineStart.starts_with(line);
}

}  // namespace

std::vector<BatchPrompt> read_prompts(const std::string& path) {
  return parse_prompts(read_text(path), path == "-" ? "stdin" : path);
}

void hash_prompts(std::vector<BatchPrompt>& prompts, const std::string& settings) {
  for (BatchPrompt& prompt : prompts) prompt.hash = prompt_hash(prompt, settings);
}

AnswerFile::AnswerFile(const std::string& path, const std::vector<BatchPrompt>& prompts) : path_(path) {
  check_writable(path);
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error)) {
    const std::string before = read_text(path);
    const std::string kept = keep_answers(before, prompts);
    if (outdated_ > 0) {
      saved_as_ = free_name_beside(path);
      write_file_atomically(saved_as_, before);
    }
    if (kept != before) write_file_atomically(path, kept);
  }
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(ErrorCode::kIo, "{}: cannot open for writing: {}", path, std::strerror(errno));
}

AnswerFile::~AnswerFile() {
  if (fd_ >= 0) ::close(fd_);
}

std::string AnswerFile::keep_answers(const std::string& text, const std::vector<BatchPrompt>& prompts) {
  std::string kept;
  // Half an answer at the end is what a crash leaves: dropped. Any other line that is no answer means that
  // the file is not ours.
  for_each_line(text, [&](const std::string& line, std::int64_t number, bool ended) {
    json answer = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!ended && answer.is_discarded() && is_half_answer(line)) {
      ++dropped_;
      return;
    }
    if (!is_answer(answer)) {
      fail(ErrorCode::kBadFormat, "{}:{}: is not an answer of winnow batch; name another output file", path_,
           number);
    }
    const auto index = answer["index"].get<std::int64_t>();
    const bool current = index >= 0 && index < static_cast<std::int64_t>(prompts.size()) &&
                         answer["prompt_hash"] == prompts[static_cast<std::size_t>(index)].hash;
    if (!current && !answer.contains("error")) ++outdated_;
    if (!current || answer.contains("error") || !answered_.insert(index).second) {
      ++dropped_;
      return;
    }
    const json& id = prompts[static_cast<std::size_t>(index)].id;  // may change without changing the answer
    if (answer.value("id", json()) == id) {
      kept += line + "\n";
      return;
    }
    answer.erase("id");
    if (!id.is_null()) answer["id"] = id;
    kept += answer_text(std::move(answer));
  });
  return kept;
}

void AnswerFile::append(const json& line) {
  const std::string text = answer_text(line);
  std::string_view left = text;
  while (!left.empty()) {  // one write() almost always; what is left after a short one follows
    const ssize_t written = ::write(fd_, left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail(ErrorCode::kIo, "{}: cannot write: {}", path_, std::strerror(errno));
    left.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace winnow::cli
