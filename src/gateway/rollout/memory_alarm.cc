#include "gateway/rollout/memory_alarm.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "base/json_full.h"
#include "base/log.h"
#include "base/threads.h"

namespace ashlar::gateway {
namespace {

constexpr double kKept = 0.5, kKeptFurther = 0.75;
constexpr std::chrono::milliseconds kRetryAfter{1'000};

// The one number in a file such as memory.max; nothing if there is none ("max").
std::optional<double> number_in(const char* path) {
  std::ifstream in(path);
  double value = 0;
  if (in >> value) return value;
  return std::nullopt;
}

// The value of a line "NAME VALUE" or "NAME: VALUE kB".
std::optional<double> line_of(const char* path, const std::string& name) {
  std::ifstream in(path);
  for (std::string word; in >> word;)
    if (word == name) {
      double value = 0;
      if (in >> value) return value;
      return std::nullopt;
    }
  return std::nullopt;
}

}  // namespace

std::optional<double> memory_share() {
  std::optional<double> share;
  const auto total = line_of("/proc/meminfo", "MemTotal:"), available = line_of("/proc/meminfo", "MemAvailable:");
  if (total && available && *total > 0) share = 1 - *available / *total;
  const auto most = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (most && used && *most > 0) {
    const double files = line_of("/sys/fs/cgroup/memory.stat", "file").value_or(0);
    const double shared = line_of("/sys/fs/cgroup/memory.stat", "shmem").value_or(0);  // of `file`, and stays
    share = std::max(share.value_or(0), (*used - std::max(0.0, files - shared)) / *most);
  }
  return share;
}

std::optional<double> memory_stalls() {
  for (const char* path : {"/sys/fs/cgroup/memory.pressure", "/proc/pressure/memory"}) {
    std::ifstream in(path);
    std::string line;  // "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"
    if (!std::getline(in, line)) continue;
    const auto at = line.find("avg10=");
    if (line.starts_with("some ") && at != std::string::npos) return std::strtod(line.c_str() + at + 6, nullptr) / 100;
  }
  return std::nullopt;
}

MemoryAlarm::MemoryAlarm(MemoryAlarmOptions options) : options_(std::move(options)) {
  if (!options_.own_thread) return;
  thread_ = std::thread([this] {
    begin_thread("memory");
    std::unique_lock lock(mutex_);
    while (!due_.wait_for(lock, options_.every, [this] { return stopping_; })) {
      lock.unlock();
      turn();
      lock.lock();
    }
  });
}

MemoryAlarm::~MemoryAlarm() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    due_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

bool MemoryAlarm::on() const { return on_.value() > 0; }

std::optional<engine::Generator::Refusal> MemoryAlarm::admit(const engine::Request& request) {
  if (!on() || request.priority < 0) return std::nullopt;
  const int running = options_.running ? options_.running() : 0;
  {
    const std::lock_guard lock(mutex_);
    if (!places_ || running < *places_) return std::nullopt;
  }
  refused_.add();
  return engine::Generator::Refusal{
      .error = {Code::unavailable, "the server's memory is nearly full: fewer requests are let in"},
      .retry_after = kRetryAfter};
}

void MemoryAlarm::turn() {
  const auto share = options_.share ? options_.share() : memory_share();
  if (!share) return;
  const bool was = on();
  const bool full = *share > options_.full ||
                    (*share > options_.high &&
                     (options_.stalled ? options_.stalled() : memory_stalls()).value_or(1) >= options_.stalls);
  const bool is = full || (was && *share >= options_.low);
  if (is) {
    const double running = options_.running ? options_.running() : 0;
    const std::lock_guard lock(mutex_);
    places_ = std::max(1.0, !was ? running * kKept : full ? *places_ * kKeptFurther : *places_);
  } else if (was) {
    const std::lock_guard lock(mutex_);
    places_.reset();
  }
  on_.set(is ? 1 : 0);
  if (is && options_.unload_idle) options_.unload_idle();
  if (is != was) tell(is, *share);
}

void MemoryAlarm::tell(bool on, double share) {
  const std::string message =
      on ? fmt::format("{:.1f} % of the memory is taken: idle models leave, and fewer requests are let in", 100 * share)
         : fmt::format("{:.1f} % of the memory is taken: requests are let in as before", 100 * share);
  if (on)
    log::warn("memory_alarm", {{"share", share}});
  else
    log::info("memory_alarm_over", {{"share", share}});
  if (options_.events != nullptr)
    options_.events->write({.kind = on ? "memory.high" : "memory.fine",
                            .subject = "server",
                            .severity = on ? Severity::error : Severity::info,
                            .message = message,
                            .details = {{"share", share}}});
}

}  // namespace ashlar::gateway
