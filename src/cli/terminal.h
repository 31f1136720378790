// What the program shows to a person: colour only on a terminal, progress on
// stderr, errors in one sentence.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::cli {

// Escape sequences, or empty strings where the stream is no terminal or
// NO_COLOR is set.
struct Palette {
  const char* bold = "";
  const char* dim = "";
  const char* green = "";
  const char* yellow = "";
  const char* red = "";
  const char* plain = "";
};
Palette palette(std::FILE* stream);
bool is_terminal(std::FILE* stream);

// "ashlar COMMAND: sentence" on stderr; returns exit status 1.
int fail(std::string_view command, const Error& error);

// All of stdin, at most `limit` bytes (too_large).
Result<std::string> read_stdin(std::size_t limit);
// All of a file, at most `limit` bytes (too_large; not_found; io).
Result<std::string> read_file(const std::string& path, std::size_t limit);

// A bar on stderr with the time left, drawn on a terminal when it moved and erased
// by its destructor; elsewhere a line each half minute, so that a log shows that
// long work goes on.
class Progress {
 public:
  Progress(std::string label, std::int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void at(std::int64_t done, std::string_view note = {});

 private:
  void write_line(std::int64_t done, std::string_view note);
  std::string left(std::int64_t done) const;

  std::string label_;
  std::int64_t total_;
  std::chrono::steady_clock::time_point began_;
  std::chrono::steady_clock::time_point line_at_;  // when the next line is due
  int shown_ = -1;                                 // permille, on a terminal
  bool terminal_;
};

}  // namespace ashlar::cli
