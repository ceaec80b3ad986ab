#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace winnow {
namespace {

std::string single(const char* kind, const char* name, const char* help, std::int64_t value) {
  return fmt::format("# HELP winnow_{0} {1}\n# TYPE winnow_{0} {2}\nwinnow_{0} {3}\n", name, help, kind,
                     value);
}

}  // namespace

void TimeHistogram::add_ms(double ms) {
  const double seconds = ms * 1e-3;
  const auto bucket = std::lower_bound(kBounds.begin(), kBounds.end(), seconds) - kBounds.begin();
  const std::scoped_lock lock(mutex_);
  ++counts_[static_cast<std::size_t>(bucket)];
  sum_ += seconds;
}

std::string TimeHistogram::text(const std::string& name, const std::string& help) const {
  const std::scoped_lock lock(mutex_);
  std::string out = fmt::format("# HELP winnow_{0} {1}\n# TYPE winnow_{0} histogram\n", name, help);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    const std::string bound = i < kBounds.size() ? fmt::format("{}", kBounds[i]) : "+Inf";
    out += fmt::format("winnow_{}_bucket{{le=\"{}\"}} {}\n", name, bound, total);
  }
  return out + fmt::format("winnow_{0}_sum {1}\nwinnow_{0}_count {2}\n", name, sum_, total);
}

void Metrics::count_request(const std::string& path, int status) {
  const std::scoped_lock lock(mutex_);
  ++requests_[{path, status}];
}

std::string Metrics::text() const {
  std::string out = "# HELP winnow_requests_total Requests answered.\n# TYPE winnow_requests_total counter\n";
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& [key, count] : requests_) {
      out += fmt::format("winnow_requests_total{{path=\"{}\",status=\"{}\"}} {}\n", key.first, key.second,
                         count);
    }
  }
  const auto counter = [&](const char* name, const char* help, std::int64_t value) {
    out += single("counter", name, help, value);
  };
  counter("prompt_tokens_total", "Tokens of prompts.", prompt_tokens);
  counter("kept_tokens_total", "Tokens of prompts that survived the last stage.", kept_tokens);
  counter("cached_tokens_total", "Tokens of prompts taken from cached prefixes.", cached_tokens);
  counter("prefill_passes_total", "Passes over the model that read prompts, one or several.", prefill_passes);
  counter("generated_tokens_total", "Tokens of answers.", generated_tokens);
  counter("cancelled_total", "Requests whose client went away.", cancelled);
  counter("rejected_total", "Requests refused because the queue was full.", rejected);
  counter("timed_out_total", "Requests that ran out of time.", timed_out);
  const auto gauge = [&](const char* name, const char* help, std::int64_t value) {
    out += single("gauge", name, help, value);
  };
  gauge("queued", "Requests waiting for their prefill.", queued);
  gauge("running", "Answers being decoded.", running);
  gauge("kv_bytes", "Cache rows of the answers being decoded, in bytes.", kv_bytes);
  gauge("prefix_cache_bytes", "Memory of cached prefixes.", prefix_bytes);
  gauge("prefix_cache_entries", "Cached prefixes.", prefix_entries);
  out += queue_time.text("queue_seconds", "From a request's arrival to the start of its prefill.");
  out += prefill_time.text("prefill_seconds", "Prefills, each pass once.");
  out += first_token_time.text("first_token_seconds", "From a request's arrival to its first token.");
  out += decode_step_time.text("decode_step_seconds", "One token for every running answer.");
  out += request_time.text("request_seconds", "From a request's arrival to the end of its answer.");
  return out;
}

}  // namespace winnow
