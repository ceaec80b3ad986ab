#include "report/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "report/html.h"

namespace winnow {
namespace {

constexpr double kWidth = 560, kHeight = 320, kLeft = 84, kRight = 16, kTop = 34, kBottom = 46;
constexpr double kLegendLine = 16;
constexpr int kColours = 8;  // classes c0..c7 of the style sheet

// One axis: values to pixels.
class Scale {
 public:
  Scale(double low, double high, double from, double to, bool log) : from_(from), to_(to), log_(log) {
    low_ = low;
    high_ = high > low ? high : low + (low == 0 ? 1 : std::abs(low) * 0.1);
  }
  double at(double value) const {
    const double share =
        log_ ? std::log(value / low_) / std::log(high_ / low_) : (value - low_) / (high_ - low_);
    return from_ + share * (to_ - from_);
  }
  // `whole`: of whole numbers, such as lengths (powers of two on a logarithmic axis) and indices.
  std::vector<double> ticks(bool whole) const {
    if (!log_) return steps(whole);
    const auto ticks =
        whole ? powers(2, {1})
              : powers(10, high_ / low_ > 1000 ? std::vector<double>{1} : std::vector<double>{1, 2, 5});
    // A narrow range may lie between them: 53 to 99 does. A single power of two is a length itself, mostly.
    return ticks.size() >= (whole ? 1 : 2) ? ticks : steps(whole);
  }

 private:
  // Round numbers, evenly spaced.
  std::vector<double> steps(bool whole) const {
    std::vector<double> result;
    double step = std::pow(10, std::floor(std::log10((high_ - low_) / 4)));
    for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
      if ((high_ - low_) / (step * factor) > 6) continue;
      step *= factor;
      break;
    }
    if (whole) step = std::max(1.0, std::round(step));
    for (double tick = std::ceil(low_ / step - 1e-9) * step; tick <= high_ + step * 1e-6; tick += step)
      result.push_back(std::abs(tick) < step * 1e-9 ? 0 : tick);
    return result;
  }

  std::vector<double> powers(double base, const std::vector<double>& factors) const {
    std::vector<double> result;
    double power = std::pow(base, std::floor(std::log(low_) / std::log(base) + 1e-9));
    for (; power <= high_ * 1.0001; power *= base) {
      for (const double factor : factors) {
        const double tick = power * factor;
        if (tick >= low_ * 0.9999 && tick <= high_ * 1.0001) result.push_back(tick);
      }
    }
    return result;
  }

  double low_, high_, from_, to_;
  bool log_;
};

struct Range {
  double low = 0, high = 0;
};

bool shown(const ChartPoint& point, const ChartOptions& options) {
  return std::isfinite(point.x) && std::isfinite(point.y) && !(options.log_x && point.x <= 0) &&
         !(options.log_y && point.y <= 0);
}

std::optional<Range> range_of(const std::vector<ChartSeries>& series, const ChartOptions& options,
                              bool of_x) {
  std::optional<Range> range;
  for (const ChartSeries& one : series) {
    for (const ChartPoint& point : one.points) {
      if (!shown(point, options)) continue;
      const double value = of_x ? point.x : point.y;
      if (!range) range = Range{value, value};
      range->low = std::min(range->low, value);
      range->high = std::max(range->high, value);
    }
  }
  return range;
}

std::string text(double x, double y, const char* anchor, const std::string& content, const char* kind = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" class=\"{}\">{}</text>\n", x, y,
                     anchor, kind, escape(content));
}

std::string axes(const Scale& x, const Scale& y, const ChartOptions& options, double bottom) {
  std::string out;
  for (const double tick : y.ticks(false)) {
    out += fmt::format("<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>", kLeft,
                       kWidth - kRight, y.at(tick));
    out += text(kLeft - 6, y.at(tick) + 4, "end", short_number(tick));
  }
  for (const double tick : x.ticks(options.bands || options.log_x)) {
    out += fmt::format("<line class=\"tick\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>",
                       x.at(tick), bottom, bottom + 4);
    out += text(x.at(tick), bottom + 17, "middle", short_number(tick));
  }
  out += fmt::format("<line class=\"axis\" x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\"/>", kLeft,
                     kWidth - kRight, bottom);
  out += text((kLeft + kWidth - kRight) / 2, bottom + 36, "middle", options.x_label, "label");
  out += fmt::format(
      "<text class=\"label\" text-anchor=\"middle\" transform=\"translate(14 {:.0f}) "
      "rotate(-90)\">{}</text>\n",
      (kTop + bottom) / 2, escape(options.y_label));
  return out;
}

// Names of points: one that would lie on another is left out, and stands in the point's tooltip alone.
class PointLabels {
 public:
  std::string place(double x, double y, const std::string& label) {
    const double width = 6.0 * static_cast<double>(label.size());
    const bool at_right = x + kGap + width > kWidth;
    const Box box{at_right ? x - kGap - width : x + kGap, y - 5};
    for (const auto& [other, other_width] : placed_) {
      if (std::abs(box.y - other.y) < kLine && box.x < other.x + other_width && other.x < box.x + width)
        return "";
    }
    placed_.emplace_back(box, width);
    return text(at_right ? x - kGap : x + kGap, box.y, at_right ? "end" : "start", label, "mark");
  }

 private:
  static constexpr double kGap = 7, kLine = 12;
  struct Box {
    double x, y;  // left end of the base line
  };
  std::vector<std::pair<Box, double>> placed_;
};

std::string series_svg(const ChartSeries& series, int colour, const Scale& x, const Scale& y,
                       const ChartOptions& options, PointLabels& labels) {
  std::string path, marks;
  for (const ChartPoint& point : series.points) {
    if (!shown(point, options)) continue;
    const double px = x.at(point.x), py = y.at(point.y);
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", px, py);
    marks +=
        fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}{}{}: {}, {}</title></circle>", px,
                    py, options.lines ? 3 : 4.5, escape(series.name), point.label.empty() ? "" : ", ",
                    escape(point.label), short_number(point.x), short_number(point.y));
    if (!point.label.empty()) marks += labels.place(px, py, point.label);
  }
  std::string out = fmt::format("<g class=\"c{}\">", colour % kColours);
  if (options.lines) out += fmt::format("<path d=\"{}\"/>", path);
  return out + marks + "</g>\n";
}

bool any_shown(const ChartSeries& series, const ChartOptions& options) {
  return std::any_of(series.points.begin(), series.points.end(),
                     [&](const ChartPoint& point) { return shown(point, options); });
}

struct Legend {
  std::string svg;
  double height = 0;
};

// Names of what is drawn, in rows under the chart.
Legend legend(const std::vector<ChartSeries>& series, const ChartOptions& options, double top) {
  std::string out;
  double x = kLeft, y = top;
  for (std::size_t i = 0; i < series.size(); ++i) {
    if (!any_shown(series[i], options)) continue;
    const double width = 26 + 6.6 * static_cast<double>(series[i].name.size());
    if (x + width > kWidth && x > kLeft) {
      x = kLeft;
      y += kLegendLine;
    }
    out += fmt::format("<g class=\"c{}\"><circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"/></g>", i % kColours,
                       x + 5, y - 4);
    out += text(x + 13, y, "start", series[i].name);
    x += width;
  }
  return {.svg = out, .height = y - top + kLegendLine};
}

std::string open_svg(double height, const std::string& title) {
  return fmt::format("<svg viewBox=\"0 0 {} {:.0f}\" role=\"img\" aria-label=\"{}\">\n{}", kWidth, height,
                     escape(title), text(kLeft, 18, "start", title, "title"));
}

}  // namespace

std::string line_chart(const std::vector<ChartSeries>& series, const ChartOptions& options) {
  const auto x_range = range_of(series, options, true), y_range = range_of(series, options, false);
  if (!x_range || !y_range) return "";
  const double bottom = kHeight - kBottom;
  const Legend names = legend(series, options, kHeight + 12);
  const double low = options.log_y       ? y_range->low
                     : options.from_zero ? std::min(0.0, y_range->low)
                                         : y_range->low;
  const double margin = options.lines ? 0 : 0.06 * (x_range->high - x_range->low);
  const Scale x(options.log_x ? x_range->low : x_range->low - margin,
                options.log_x ? x_range->high : x_range->high + margin, kLeft + 8, kWidth - kRight - 8,
                options.log_x);
  const Scale y(low, options.log_y ? y_range->high : y_range->high + 0.06 * (y_range->high - low), bottom,
                kTop, options.log_y);
  std::string out = open_svg(kHeight + names.height + 6, options.title) + axes(x, y, options, bottom);
  PointLabels labels;
  for (std::size_t i = 0; i < series.size(); ++i)
    out += series_svg(series[i], static_cast<int>(i), x, y, options, labels);
  return out + names.svg + "</svg>";
}

std::string heat_map(const std::vector<std::vector<double>>& rows, const HeatOptions& options) {
  if (rows.empty() || rows.front().empty()) return "";
  const double cell_width = (kWidth - kLeft - kRight) / static_cast<double>(rows.front().size());
  const double cell_height = std::clamp(240.0 / static_cast<double>(rows.size()), 6.0, 18.0);
  const double bottom = kTop + cell_height * static_cast<double>(rows.size());
  std::string out = open_svg(bottom + kBottom, options.title);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rows[i].size() && j < rows.front().size(); ++j) {
      const double value = rows[i][j];
      if (!std::isfinite(value)) continue;
      out += fmt::format(
          "<rect class=\"heat\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
          "fill-opacity=\"{:.3f}\"><title>{} {}, {} {}: {}</title></rect>\n",
          kLeft + cell_width * static_cast<double>(j), kTop + cell_height * static_cast<double>(i),
          cell_width, cell_height, std::clamp(value, 0.0, 1.0), escape(options.y_label), i,
          escape(options.x_label), j, short_number(value));
    }
    const std::size_t every = rows.size() > 16 ? 5 : 1;
    if (i % every == 0)
      out += text(kLeft - 6, kTop + cell_height * (static_cast<double>(i) + 0.5) + 4, "end",
                  fmt::format("{}", i));
  }
  out += text((kLeft + kWidth - kRight) / 2, bottom + 18, "middle", options.x_label, "label");
  out += fmt::format(
      "<text class=\"label\" text-anchor=\"middle\" transform=\"translate(14 {:.0f}) "
      "rotate(-90)\">{}</text>\n",
      (kTop + bottom) / 2, escape(options.y_label));
  return out + "</svg>";
}

}  // namespace winnow
