// When memory runs out: models that nobody uses leave it, and fewer requests are let in, until there is room again.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "base/metrics.h"
#include "engine/generator.h"
#include "gateway/events/event_log.h"
#include "gateway/routing/deployment.h"

namespace ashlar::gateway {

struct MemoryAlarmOptions {
  // Shares of the memory. It begins above `high` where somebody waited for memory for `stalls` of the time: a cache
  // that fills what it was given is no fault. Above `full` in any case. It ends below `low`.
  double high = 0.95, full = 0.98, low = 0.90;
  double stalls = 0.01;
  std::chrono::milliseconds every{1'000};
  std::function<std::optional<double>()> share;    // null: memory_share()
  std::function<std::optional<double>()> stalled;  // null: memory_stalls()
  std::function<int()> running;                    // requests now
  std::function<void()> unload_idle;               // models that nobody uses
  EventLog* events = nullptr;                      // outlives it; null: none
  bool own_thread = true;                          // else somebody calls turn()
};

// The share of this process's memory that is taken and cannot be had back: of its cgroup, without the pages of files;
// or of the machine, where that is fuller. nothing: the system does not say.
std::optional<double> memory_share();

// The share of the last ten seconds in which somebody here waited for memory (Linux's pressure stall information,
// "some"); nothing: the system does not say.
std::optional<double> memory_stalls();

// Any thread.
class MemoryAlarm {
 public:
  explicit MemoryAlarm(MemoryAlarmOptions options);
  ~MemoryAlarm();

  // While the alarm is on, a request is let in as long as fewer than half of those run that ran when it began, and
  // fewer still as it goes on; urgent ones (a priority below 0) are let in all the same. Else: unavailable, to be tried
  // again in a second.
  std::optional<engine::Generator::Refusal> admit(const engine::Request& request);
  bool on() const;
  void turn();

 private:
  void tell(bool on, double share);

  const MemoryAlarmOptions options_;
  Gauge on_{"gateway_memory_alarm", "1 while memory runs out: idle models leave, and fewer requests are let in."};
  Counter refused_{"gateway_memory_alarm_refused_total", "Requests that were refused for it."};
  mutable std::mutex mutex_;
  std::condition_variable due_;
  std::optional<double> places_;  // requests at once, while it is on
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace ashlar::gateway
