#include "cli/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/utf8.h"
#include "cli/terminal.h"

namespace ashlar::cli {
namespace {

// In characters, which is near enough for columns.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

std::string shown(std::string text) {
  text = utf8::sanitize(text);
  std::ranges::replace_if(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

void Table::add(std::vector<std::string> row) {
  for (std::string& each : row) each = each.empty() ? "-" : shown(std::move(each));
  rows_.push_back(std::move(row));
}

void Table::print() const {
  std::vector<std::size_t> widths;
  for (const std::string& each : headings_) widths.push_back(width_of(each));
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  const Palette colour = palette(stdout);
  const auto line = [&](const std::vector<std::string>& cells, const char* first, const char* plain) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const bool last = i + 1 == cells.size();
      fmt::print("{}{}{}{}", i == 0 ? first : "", cells[i], i == 0 ? plain : "",
                 last ? "" : std::string(widths[i] - width_of(cells[i]) + 2, ' '));
    }
    fmt::print("\n");
  };
  fmt::print("{}", colour.dim);
  line(headings_, "", "");
  fmt::print("{}", colour.plain);
  for (const auto& row : rows_) line(row, colour.bold, colour.plain);
}

}  // namespace ashlar::cli
