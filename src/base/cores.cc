#include "base/cores.h"

#include <pthread.h>
#include <unistd.h>

#include <ctime>

namespace ashlar {

std::vector<int> allowed_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(::getpid(), sizeof allowed, &allowed);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  return cores;
}

ThreadId ThreadId::current() {
  ThreadId id{.tid = gettid()};
  pthread_getcpuclockid(pthread_self(), &id.clock);
  return id;
}

std::chrono::nanoseconds ThreadId::processor_time() const {
  timespec time{};
  clock_gettime(clock, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

void confine(const ThreadId& thread, int core) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  confine(thread, one);
}

void confine(const ThreadId& thread, const cpu_set_t& cores) { sched_setaffinity(thread.tid, sizeof cores, &cores); }

cpu_set_t confinement(const ThreadId& thread) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  sched_getaffinity(thread.tid, sizeof cores, &cores);
  return cores;
}

bool Watch::held_up(const ThreadId& thread) {
  const auto now = std::chrono::steady_clock::now();
  const auto ran = thread.processor_time();
  const bool held_up = thread.tid == tid_ && (ran - ran_) * 4 < now - asked_;
  tid_ = thread.tid;
  asked_ = now;
  ran_ = ran;
  return held_up;
}

}  // namespace ashlar
