// Charts as SVG text: lines or points over two axes, and grids of coloured cells. No scripts; they print as
// they look. Colours come from the page's style sheet.
#pragma once

#include <string>
#include <vector>

namespace winnow {

struct ChartPoint {
  double x = 0, y = 0;
  std::string label;  // shown beside the point; "" none
};

struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;
};

struct ChartOptions {
  std::string title = {}, x_label = {}, y_label = {};
  bool log_x = false, log_y = false;
  bool lines = true;      // false: points alone
  bool from_zero = true;  // the y axis begins at 0 (not with log_y)
  bool bands = false;     // x are indices: every whole number has a tick as far as there is room
};

// "" when no series has a point that can be shown.
std::string line_chart(const std::vector<ChartSeries>& series, const ChartOptions& options);

// Rows of cells from 0 (pale) to 1 (strong); every row is as long as the first.
struct HeatOptions {
  std::string title, x_label, y_label;
};
std::string heat_map(const std::vector<std::vector<double>>& rows, const HeatOptions& options);

}  // namespace winnow
