#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace winnow::cli {

ProgressStyle choose_progress_style(bool plain_lines) {
  if (plain_lines) return ProgressStyle::kLines;
  return ::isatty(STDERR_FILENO) != 0 ? ProgressStyle::kBar : ProgressStyle::kNone;
}

Progress::Progress(std::string label, ProgressStyle style) : label_(std::move(label)), style_(style) {}

void Progress::update(double share, const std::string& note) {
  share = std::clamp(share, 0.0, 1.0);
  if (style_ == ProgressStyle::kLines) {
    const int tenth = static_cast<int>(share * 10 + 1e-9);
    if (tenth == tenth_) return;
    tenth_ = tenth;
    fmt::print(stderr, "{}: {}%{}{}\n", label_, tenth * 10, note.empty() ? "" : ", ", note);
  } else if (style_ == ProgressStyle::kBar) {
    draw_bar(share, note);
  }
}

void Progress::draw_bar(double share, const std::string& note) {
  const auto now = Clock::now();
  if (now - start_ < std::chrono::seconds(1) || now - drawn_ < std::chrono::milliseconds(50)) return;
  drawn_ = now;
  visible_ = true;
  constexpr int kWidth = 30;
  const int filled = static_cast<int>(std::lround(share * kWidth));
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  // Early estimates jump about; none is better.
  const std::string left = share > 0.05 ? fmt::format(", {:.0f} s left", elapsed / share - elapsed) : "";
  fmt::print(stderr, "\r\x1b[K{} [{:#<{}}{:.<{}}] {:3.0f}%{}{}{}", label_, "", filled, "", kWidth - filled,
             share * 100, left, note.empty() ? "" : ", ", note);
  std::fflush(stderr);
}

void Progress::finish() {
  if (!std::exchange(visible_, false)) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
}

}  // namespace winnow::cli
