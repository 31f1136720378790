// What others take of the cores that this process may use: other processes,
// interrupts, and the host of a virtual machine.
#pragma once

#include <vector>

namespace ashlar::cli {

// A stretch of time. One thread. Reads /proc/stat; where that cannot be read,
// nobody else is seen.
class ForeignLoad {
 public:
  ForeignLoad();  // the stretch begins
  // Between 0 and 1: of all the time that the cores had since then. The kernel
  // counts in steps of some 10 ms, and less than a few of those read as nothing.
  double share() const;

 private:
  struct Reading {
    double wall = 0, idle = 0, own = 0;  // seconds; idle and own of all cores together
  };
  Reading read() const;

  std::vector<int> cores_;
  Reading start_;
};

// From this share on a measurement is called disturbed.
inline constexpr double kDisturbed = 0.02;

}  // namespace ashlar::cli
