#include "report/html.h"

#include <fmt/format.h>

#include <cmath>

#include "tokenizer/utf8.h"

namespace winnow {

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : utf8_repair(text)) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default:
        // HTML has no other control characters.
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') out += c;
    }
  }
  return out;
}

std::string short_number(double value) {
  if (!std::isfinite(value)) return "–";
  const double size = std::abs(value);
  if (size >= 1000) {
    std::string digits = fmt::format("{:.0f}", size);
    for (std::size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
    return (value < 0 ? "−" : "") + digits;
  }
  const char* sign = value < 0 ? "−" : "";
  if (size == std::floor(size)) return fmt::format("{}{:.0f}", sign, size);
  if (size >= 100) return fmt::format("{}{:.0f}", sign, size);
  if (size >= 10) return fmt::format("{}{:.1f}", sign, size);
  if (size >= 1) return fmt::format("{}{:.2f}", sign, size);
  return fmt::format("{}{:.3g}", sign, size);
}

std::string milliseconds(double ms) {
  return ms < 10000 ? short_number(ms) + " ms" : short_number(ms / 1000) + " s";
}

std::string bytes_text(double bytes) {
  if (bytes < 1e6) return short_number(bytes / 1e3) + " kB";
  return bytes < 1e9 ? short_number(bytes / 1e6) + " MB" : short_number(bytes / 1e9) + " GB";
}

std::string percent_text(double share) {
  return std::isfinite(share) ? fmt::format("{:.1f}%", 100 * share) : "–";
}

std::string times_text(double factor) { return std::isfinite(factor) ? fmt::format("{:.2f}×", factor) : "–"; }

std::string HtmlTable::to_string(bool copyable) const {
  std::string out =
      copyable ? "<div class=\"copyable\"><button type=\"button\" class=\"copy\">Copy</button>" : "";
  out += "<table><thead><tr>";
  for (const std::string& cell : header_) out += "<th>" + escape(cell) + "</th>";
  out += "</tr></thead><tbody>\n";
  for (const auto& row : rows_) {
    out += "<tr>";
    for (const std::string& cell : row) out += "<td>" + escape(cell) + "</td>";
    out += "</tr>\n";
  }
  return out + "</tbody></table>" + (copyable ? "</div>" : "") + "\n";
}

std::string section(const std::string& title, const std::string& content) {
  return "<section><h2>" + escape(title) + "</h2>\n" + content + "</section>\n";
}

std::string figure(const std::string& content, const std::string& caption) {
  return "<figure>" + content + "<figcaption>" + escape(caption) + "</figcaption></figure>\n";
}

std::string paragraph(const std::string& text) { return "<p>" + escape(text) + "</p>\n"; }

}  // namespace winnow
