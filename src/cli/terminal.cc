#include "cli/terminal.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace ashlar::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kLineEvery{30};

Result<std::string> read_stream(std::FILE* stream, std::string_view what, std::size_t limit) {
  std::string text;
  char buffer[64 << 10];
  while (true) {
    const std::size_t n = std::fread(buffer, 1, sizeof buffer, stream);
    text.append(buffer, n);
    if (text.size() > limit) return Error{Code::too_large, fmt::format("{}: longer than {} bytes", what, limit)};
    if (n < sizeof buffer) break;
  }
  if (std::ferror(stream)) return Error{Code::io, fmt::format("{}: {}", what, std::strerror(errno))};
  return text;
}

}  // namespace

bool is_terminal(std::FILE* stream) { return isatty(fileno(stream)) == 1; }

Palette palette(std::FILE* stream) {
  if (!is_terminal(stream) || std::getenv("NO_COLOR") != nullptr) return {};
  return {"\033[1m", "\033[2m", "\033[32m", "\033[33m", "\033[31m", "\033[0m"};
}

int fail(std::string_view command, const Error& error) {
  const Palette colour = palette(stderr);
  fmt::print(stderr, "{}ashlar {}:{} {}\n", colour.red, command, colour.plain, error.message);
  return 1;
}

Result<std::string> read_stdin(std::size_t limit) { return read_stream(stdin, "standard input", limit); }

Result<std::string> read_file(const std::string& path, std::size_t limit) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    const int reason = errno;
    return Error{reason == ENOENT ? Code::not_found : Code::io, fmt::format("{}: {}", path, std::strerror(reason))};
  }
  struct stat info{};
  Result<std::string> text =
      ::fstat(fileno(file), &info) == 0 && S_ISDIR(info.st_mode)
          ? Result<std::string>(Error{Code::io, fmt::format("{}: is a folder, not a file", path)})
          : read_stream(file, path, limit);
  std::fclose(file);
  return text;
}

Progress::Progress(std::string label, std::int64_t total)
    : label_(std::move(label)),
      total_(total > 0 ? total : 1),
      began_(Clock::now()),
      line_at_(began_ + kLineEvery),
      terminal_(is_terminal(stderr)) {}

Progress::~Progress() {
  if (shown_ >= 0) fmt::print(stderr, "\r\033[K");
}

void Progress::at(std::int64_t done, std::string_view note) {
  if (!terminal_) return write_line(done, note);
  constexpr int kWidth = 30;
  const int permille = static_cast<int>(done * 1000 / total_);
  if (permille == shown_) return;
  shown_ = permille;
  const int filled = permille * kWidth / 1000;
  fmt::print(stderr, "\r\033[K{} [{:=<{}}{:{}}] {:3}%{} {}", label_, "", filled, "", kWidth - filled, permille / 10,
             left(done), note);
  std::fflush(stderr);
}

void Progress::write_line(std::int64_t done, std::string_view note) {
  const auto now = Clock::now();
  if (now < line_at_) return;
  line_at_ = now + kLineEvery;
  fmt::print(stderr, "{}: {}%{} {}\n", label_, done * 100 / total_, left(done), note);
}

// ", 3 min left", once there is something to judge by.
std::string Progress::left(std::int64_t done) const {
  const std::chrono::duration<double> elapsed = Clock::now() - began_;
  if (elapsed < std::chrono::seconds(3) || done <= 0 || done >= total_) return {};
  const double seconds = elapsed.count() * static_cast<double>(total_ - done) / static_cast<double>(done);
  return seconds < 90 ? fmt::format(", {:.0f} s left", seconds) : fmt::format(", {:.0f} min left", seconds / 60);
}

}  // namespace ashlar::cli
