#include "base/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>

#include "base/json.h"

namespace ashlar::log {
namespace {

std::atomic<Level> g_level = Level::info;
std::atomic<Format> g_format = Format::text;

std::string_view level_name(Level level) {
  switch (level) {
    case Level::debug: return "debug";
    case Level::info: return "info";
    case Level::warn: return "warn";
    default: return "error";
  }
}

std::string timestamp() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday,
                     utc.tm_hour, utc.tm_min, utc.tm_sec, millis);
}

}  // namespace

void configure(Level level, Format format) {
  g_level = level;
  g_format = format;
}

bool writes(Level level) {
  const Level least = g_level.load(std::memory_order_relaxed);
  return level >= least && least != Level::off;
}

void write(Level level, std::string_view event, std::initializer_list<Field> fields) {
  if (!writes(level)) return;
  std::string line;
  if (g_format == Format::json) {
    line = fmt::format(R"({{"time":"{}","level":"{}","event":)", timestamp(), level_name(level));
    append_json_string(line, event);
    for (const Field& field : fields) {
      line.push_back(',');
      append_json_string(line, field.key);
      line.push_back(':');
      if (field.quoted) append_json_string(line, field.value);
      else line.append(field.value);
    }
    line.append("}\n");
  } else {
    line = fmt::format("{} {:5} {}", timestamp(), level_name(level), event);
    for (const Field& field : fields) {
      line.append(fmt::format(" {}=", field.key));
      const bool plain = !field.value.empty() && std::ranges::all_of(field.value, [](char c) {
        return c > ' ' && c < 0x7f && c != '"' && c != '=' && c != '\\';  // no terminal obeys what is in a value
      });
      if (field.quoted && !plain) append_json_string(line, field.value);
      else line.append(field.value);
    }
    line.push_back('\n');
  }
  // One write call keeps lines whole among threads.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace ashlar::log
