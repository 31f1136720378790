#include "base/threads.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/result.h"

namespace ashlar {
namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

constexpr int kSpins = 20'000;  // some 100 to 500 microseconds: longer than the gap between two layers

}  // namespace

// The gate of the current loop: generation << 32 | open | helpers inside. A loop is published by a new
// generation with the gate open; a helper enters by counting itself in while it is open. The caller, when no
// index is left, closes the gate and waits for those inside: never for a helper that was asleep or held up elsewhere.
constexpr std::uint64_t kOpen = 1u << 31, kInside = kOpen - 1;

struct ThreadPool::State {
  int size = 1;
  std::vector<std::jthread> helpers;

  const FunctionRef<void(int, int)>* fn = nullptr;
  int count = 0;
  alignas(64) std::atomic<std::uint64_t> gate{0};
  alignas(64) std::atomic<int> next{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;

  void work(int worker) {
    for (int index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;) (*fn)(index, worker);
  }

  std::uint32_t generation() const { return static_cast<std::uint32_t>(gate.load(std::memory_order_seq_cst) >> 32); }

  void help(int worker) {
    std::uint32_t seen = 0;
    while (true) {
      int spins = 0;
      while (generation() == seen && !stop.load(std::memory_order_relaxed)) {
        if (++spins < kSpins) {
          relax();
          continue;
        }
        std::unique_lock lock(mutex);
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        wake.wait(lock, [&] { return generation() != seen || stop.load(); });
        sleepers.fetch_sub(1, std::memory_order_relaxed);
      }
      if (stop.load(std::memory_order_relaxed)) return;
      std::uint64_t now = gate.load(std::memory_order_acquire);
      seen = static_cast<std::uint32_t>(now >> 32);
      while ((now & kOpen) != 0 && static_cast<std::uint32_t>(now >> 32) == seen)
        if (gate.compare_exchange_weak(now, now + 1, std::memory_order_acquire)) {
          work(worker);
          gate.fetch_sub(1, std::memory_order_release);
          break;
        }
    }
  }
};

ThreadPool::ThreadPool(int threads, bool pin) : state_(std::make_unique<State>()) {
  state_->size = threads < 1 ? available_cores() : threads;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  for (int worker = 1; worker < state_->size; ++worker) {
    state_->helpers.emplace_back([state = state_.get(), worker] {
      name_this_thread("ashlar-pool");
      state->help(worker);
    });
    if (pin && !cores.empty()) {
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cores[static_cast<std::size_t>(worker) % cores.size()], &one);
      pthread_setaffinity_np(state_->helpers.back().native_handle(), sizeof one, &one);
    }
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop.store(true);
  }
  state_->wake.notify_all();
  state_->helpers.clear();  // joins, while the rest of State still lives
}

int ThreadPool::size() const { return state_->size; }

void ThreadPool::for_each(int count, FunctionRef<void(int, int)> fn) {
  State& s = *state_;
  if (count <= 0) return;
  if (s.size == 1 || count == 1) {
    for (int index = 0; index < count; ++index) fn(index, 0);
    return;
  }
  s.fn = &fn;
  s.count = count;
  s.next.store(0, std::memory_order_relaxed);
  const std::uint64_t generation = (s.gate.load(std::memory_order_relaxed) >> 32) + 1;
  s.gate.store(generation << 32 | kOpen, std::memory_order_seq_cst);
  if (s.sleepers.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard lock(s.mutex);  // a helper between its check and its sleep holds this
    s.wake.notify_all();
  }
  s.work(0);
  s.gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int spins = 0; (s.gate.load(std::memory_order_acquire) & kInside) != 0;) {
    if (++spins < kSpins)
      relax();
    else
      std::this_thread::yield();
  }
}

int available_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  return std::max(1, CPU_COUNT(&allowed));
}

void name_this_thread(const char* name) { pthread_setname_np(pthread_self(), name); }

}  // namespace ashlar
