// Table: aligned columns of text. The first column is aligned left, the others right.
#pragma once

#include <string>
#include <vector>

namespace winnow::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) { add_row(std::move(header)); }
  void add_row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string to_string() const;  // one line a row

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace winnow::cli
