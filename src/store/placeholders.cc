#include "store/placeholders.h"

#include <fmt/format.h>

#include <algorithm>

namespace ashlar::store {
namespace {

bool in_word(char c) {
  return c == '_' || c == '$' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         static_cast<unsigned char>(c) >= 0x80;
}

// Where the comment that begins at `at` ends; PostgreSQL's may hold others.
std::size_t after_comment(std::string_view sql, std::size_t at) {
  int depth = 0;
  while (at < sql.size()) {
    const std::string_view two = sql.substr(at, 2);
    if (two != "/*" && two != "*/") {
      ++at;
      continue;
    }
    at += 2;
    depth += two == "/*" ? 1 : -1;
    if (depth == 0) break;
  }
  return at;
}

// Where what begins at `at` and must be left alone ends; `at` itself: nothing does.
// A doubled quote reads as one text after another, which comes to the same.
std::size_t after_quiet(std::string_view sql, std::size_t at) {
  const auto behind = [&](std::string_view end, std::size_t from) {
    const std::size_t found = sql.find(end, from);
    return found == std::string_view::npos ? sql.size() : found + end.size();
  };
  if (sql[at] == '\'' || sql[at] == '"') return behind(sql.substr(at, 1), at + 1);
  if (sql.substr(at, 2) == "--") return behind("\n", at);
  if (sql.substr(at, 2) == "/*") return after_comment(sql, at);
  return at;
}

bool is_returning(std::string_view word) {
  constexpr std::string_view kReturning = "returning";
  return std::ranges::equal(word, kReturning, [](char a, char b) { return (a | 0x20) == b; });
}

}  // namespace

Numbered number_places(std::string_view sql) {
  while (!sql.empty() && (sql.back() == ';' || sql.back() == ' ' || sql.back() == '\n')) sql.remove_suffix(1);
  Numbered out;
  for (std::size_t at = 0; at < sql.size();) {
    std::size_t end = after_quiet(sql, at);
    if (end == at && sql[at] == '?') {
      out.sql += fmt::format("${}", ++out.places);
      ++at;
      continue;
    }
    if (end == at && in_word(sql[at])) {
      while (end < sql.size() && in_word(sql[end])) ++end;
      if (is_returning(sql.substr(at, end - at))) out.returns = true;
    }
    end = std::max(end, at + 1);
    out.sql += sql.substr(at, end - at);
    at = end;
  }
  return out;
}

}  // namespace ashlar::store
