#include "cli/bench/foreign_load.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

#include "base/cores.h"

namespace ashlar::cli {
namespace {

double process_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

}  // namespace

ForeignLoad::ForeignLoad() : cores_(allowed_cores()), start_(read()) {}

// A line of /proc/stat: cpu3 user nice system idle iowait irq softirq steal ..., in ticks. What a core had and
// did not idle away was somebody's, the host's too, so that idle time alone is asked for: it is counted exactly,
// while busy time is sampled by the tick.
ForeignLoad::Reading ForeignLoad::read() const {
  Reading reading;
  std::ifstream stat("/proc/stat");
  const double tick = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
  std::size_t found = 0;
  for (std::string line; std::getline(stat, line) && line.starts_with("cpu");) {
    int core = -1;
    std::from_chars(line.data() + 3, line.data() + line.size(), core);
    if (!std::ranges::binary_search(cores_, core)) continue;
    std::istringstream fields(line);
    std::string name;
    double user = 0, nice = 0, system = 0, idle = 0, waiting = 0;
    fields >> name >> user >> nice >> system >> idle >> waiting;
    reading.idle += (idle + waiting) * tick;
    ++found;
  }
  reading.wall = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  reading.own = process_seconds();
  if (found != cores_.size()) reading.idle = -1;  // says nothing
  return reading;
}

double ForeignLoad::share() const {
  const Reading end = read();
  const double had = (end.wall - start_.wall) * static_cast<double>(cores_.size());
  if (had <= 0 || start_.idle < 0 || end.idle < 0) return 0;
  const double foreign = had - (end.idle - start_.idle) - (end.own - start_.own);
  const double grain = 0.01 * static_cast<double>(cores_.size());
  return foreign > grain ? std::min(1.0, foreign / had) : 0;
}

}  // namespace ashlar::cli
