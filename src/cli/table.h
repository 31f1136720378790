// Rows under a dim line of headings, as wide as what is in them.
#pragma once

#include <string>
#include <vector>

namespace ashlar::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> headings) : headings_(std::move(headings)) {}
  // "" is shown as "-". Names came with requests: what a terminal would obey is shown as "?".
  void add(std::vector<std::string> row);
  bool empty() const { return rows_.empty(); }
  // On stdout, the first column bold.
  void print() const;

 private:
  std::vector<std::string> headings_;
  std::vector<std::vector<std::string>> rows_;
};

// `text` without what a terminal would obey.
std::string shown(std::string text);

}  // namespace ashlar::cli
