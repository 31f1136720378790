// Ctrl-C in commands that write a file: the work looks now and then and ends with an error, so that the partial file
// goes as with any other.
#pragma once

#include "base/result.h"

namespace ashlar::cli {

inline constexpr int kInterrupted = 130;  // exit status, as shells have it

// From now on SIGINT, SIGTERM and SIGHUP are noted only, and a limit on the size of files is an error of write().
void catch_interrupts();
bool interrupted();

}  // namespace ashlar::cli
