// Pieces of HTML. Everything that comes from a file goes through escape().
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace winnow {

// Text for HTML's content and quoted attributes; what is no UTF-8 is repaired.
std::string escape(std::string_view text);

// "1,234", "12.3", "0.0123": as many digits as are worth reading. "–" for what is not a number.
std::string short_number(double value);
std::string milliseconds(double ms);     // "834 ms", "12.3 s"
std::string bytes_text(double bytes);    // "8.1 MB"
std::string percent_text(double share);  // "43.2%"
std::string times_text(double factor);   // "1.84×"

// A table whose first column is text and whose others are numbers.
class HtmlTable {
 public:
  explicit HtmlTable(std::vector<std::string> header) : header_(std::move(header)) {}
  void add_row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  // With a button that copies it as tab-separated text, if `copyable`.
  std::string to_string(bool copyable = false) const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

std::string section(const std::string& title, const std::string& content);
// A picture or chart with what it shows.
std::string figure(const std::string& content, const std::string& caption);
std::string paragraph(const std::string& text);

}  // namespace winnow
