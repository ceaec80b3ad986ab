#include "eval/longbench.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "core/byte_reader.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "eval/answer_scores.h"
#include "eval/longbench_datasets.h"
#include "formats/json_text.h"

namespace winnow {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxLineBytes = 64 << 20;

struct Entry {
  std::string input, context;
  std::vector<std::string> answers, classes;
};

[[noreturn]] void bad(const std::string& where, const std::string& why,
                      ErrorCode code = ErrorCode::kBadFormat) {
  fail(code, "{}: {}", where, why);
}

std::string text_of(const json& line, const char* key, const std::string& where) {
  if (!line.contains(key) || !line[key].is_string()) bad(where, fmt::format("\"{}\" must be text", key));
  return line[key].get<std::string>();
}

std::vector<std::string> texts_of(const json& line, const char* key, const std::string& where) {
  const bool is_list =
      line.contains(key) && line[key].is_array() &&
      std::all_of(line[key].begin(), line[key].end(), [](const json& one) { return one.is_string(); });
  if (!is_list) bad(where, fmt::format("\"{}\" must be a list of texts", key));
  return line[key].get<std::vector<std::string>>();
}

const LongBenchDataset& dataset_named(const std::string& name, const std::string& where) {
  std::string known;
  for (const LongBenchDataset& dataset : longbench_datasets()) {
    if (dataset.name == name) return dataset;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", dataset.name);
  }
  bad(where, fmt::format("dataset \"{}\": only the English ones can be run: {}", printable(name), known),
      ErrorCode::kUnsupported);
}

Entry read_entry(const json& line, const LongBenchDataset& dataset, const std::string& where) {
  Entry entry{
      text_of(line, "input", where), text_of(line, "context", where), texts_of(line, "answers", where), {}};
  if (entry.answers.empty()) bad(where, "\"answers\" is empty: nothing could be right");
  const bool has_classes = line.contains("all_classes") && !line["all_classes"].is_null();
  if (has_classes) entry.classes = texts_of(line, "all_classes", where);
  if (dataset.metric == LongBenchMetric::kClass && entry.classes.empty()) {
    bad(where, fmt::format("\"all_classes\" must be a list of texts: {} is scored by them", dataset.name));
  }
  if (dataset.metric == LongBenchMetric::kRetrieval) {
    for (const std::string& answer : entry.answers) {
      if (paragraph_number(answer).empty()) bad(where, "an answer must be like \"Paragraph 7\"");
    }
  }
  if (line.contains("length") && !line["length"].is_number_integer())
    bad(where, "\"length\" must be an integer");
  for (const char* key : {"language", "_id"}) {
    if (line.contains(key)) text_of(line, key, where);
  }
  return entry;
}

std::string filled(std::string_view pattern, const Entry& entry) {
  std::string text;
  while (!pattern.empty()) {
    const std::size_t brace = pattern.find('{');
    text += pattern.substr(0, brace);
    if (brace == pattern.npos) break;
    pattern.remove_prefix(brace);
    const bool context = pattern.starts_with("{context}");
    text += context ? entry.context : entry.input;
    pattern.remove_prefix(std::string_view(context ? "{context}" : "{input}").size());
  }
  return text;
}

class LongBenchTask final : public Task {
 public:
  LongBenchTask(const LongBenchDataset& dataset, std::vector<Entry> entries, json identity)
      : Task(fmt::format("longbench_{}", dataset.name)),
        dataset_(dataset),
        entries_(std::move(entries)),
        identity_(std::move(identity)) {}

  std::string metric() const override {
    switch (dataset_.metric) {
      case LongBenchMetric::kF1: return "qa_f1";
      case LongBenchMetric::kRougeL: return "rouge_l";
      case LongBenchMetric::kClass: return "classification";
      case LongBenchMetric::kRetrieval: return "retrieval";
      case LongBenchMetric::kCount: return "count";
      case LongBenchMetric::kCode: return "edit_similarity";
    }
    return "";
  }

  void check_length(std::int64_t length) const override {
    if (length > 2 * dataset_.answer_tokens) return;
    fail(ErrorCode::kBadArgument, "{}: a length of {} tokens is too short: its answers may take {}", name(),
         length, dataset_.answer_tokens);
  }

  std::int64_t items(std::int64_t wanted) const override { return std::min(wanted, std::ssize(entries_)); }

  Question make(std::int64_t /*length*/, std::int64_t index, std::uint64_t /*seed*/) const override {
    const Entry& entry = entries_[index];
    return {{filled(dataset_.prompt, entry), "", dataset_.chat},
            entry.answers,
            dataset_.answer_tokens,
            {},
            /*cut_middle=*/true,
            index};
  }

  double score(const Question& question, const std::string& answer) const override {
    std::string_view text = answer;
    if (dataset_.first_line) {
      text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
      text = text.substr(0, text.find('\n'));
    }
    double best = 0;
    for (const std::string& reference : question.references) {
      best = std::max(best, score_one(text, reference, entries_[question.source].classes));
    }
    return best;
  }

  json identity() const override { return identity_; }

 private:
  double score_one(std::string_view answer, const std::string& reference,
                   const std::vector<std::string>& classes) const {
    switch (dataset_.metric) {
      case LongBenchMetric::kF1: return word_f1(answer, reference);
      case LongBenchMetric::kRougeL: return rouge_l(answer, reference);
      case LongBenchMetric::kClass: return class_score(answer, reference, classes);
      case LongBenchMetric::kRetrieval: return number_share(answer, paragraph_number(reference));
      case LongBenchMetric::kCount: return number_share(answer, reference);
      case LongBenchMetric::kCode: return code_similarity(answer, reference);
    }
    return 0;
  }

  const LongBenchDataset& dataset_;
  std::vector<Entry> entries_;
  json identity_;
};

}  // namespace

std::unique_ptr<Task> make_longbench(const std::string& path) {
  const MappedFile file(path);
  const std::string_view text = file.text();
  const LongBenchDataset* dataset = nullptr;
  std::vector<Entry> entries;
  std::int64_t number = 1;
  for (std::size_t begin = 0; begin < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const std::string where = fmt::format("{}:{}", path, number);
    const json object = parse_json_object(line, where, kMaxLineBytes);
    const LongBenchDataset& named = dataset_named(text_of(object, "dataset", where), where);
    if (dataset != nullptr && dataset != &named) {
      bad(where, fmt::format("dataset \"{}\" after \"{}\": one dataset a file", named.name, dataset->name));
    }
    dataset = &named;
    entries.push_back(read_entry(object, named, where));
  }
  if (dataset == nullptr) fail(ErrorCode::kBadFormat, "{}: has no lines", path);
  const std::string hash = fmt::format("{:016x}", XXH64(text.data(), text.size(), 0));
  return std::make_unique<LongBenchTask>(*dataset, std::move(entries),
                                         json{"longbench", dataset->name, hash});
}

}  // namespace winnow
