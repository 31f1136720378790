#include "cli/interrupts.h"

#include <atomic>
#include <csignal>

namespace ashlar::cli {
namespace {

std::atomic<bool> g_interrupted{false};

}  // namespace

void catch_interrupts() {
  struct sigaction action{};
  action.sa_handler = [](int) { g_interrupted.store(true); };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);
}

bool interrupted() { return g_interrupted.load(); }

}  // namespace ashlar::cli
