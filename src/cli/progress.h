// Progress: how far a long step is, on stderr.
#pragma once

#include <chrono>
#include <string>

namespace winnow::cli {

enum class ProgressStyle {
  kNone,
  kBar,    // one line, redrawn and erased at the end; shown once the step has taken a second
  kLines,  // a plain line every tenth
};

// kLines when asked for, a bar when stderr is a terminal, otherwise nothing.
ProgressStyle choose_progress_style(bool plain_lines);

class Progress {
 public:
  Progress(std::string label, ProgressStyle style);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() { finish(); }

  // `share` done, 0..1; `note` follows the bar ("12 of 100"). Cheap enough for every token.
  void update(double share, const std::string& note = "");
  void finish();  // erases the bar

 private:
  using Clock = std::chrono::steady_clock;

  void draw_bar(double share, const std::string& note);

  std::string label_;
  ProgressStyle style_;
  Clock::time_point start_ = Clock::now(), drawn_{};
  bool visible_ = false;
  int tenth_ = -1;  // last one printed
};

}  // namespace winnow::cli
