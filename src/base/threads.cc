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

// A loop is published by raising `generation`; it ends when every helper has left it, so no helper can meet the next loop late.
struct ThreadPool::State {
  int size = 1;
  std::vector<std::jthread> helpers;

  const FunctionRef<void(int, int)>* fn = nullptr;
  int count = 0;
  alignas(64) std::atomic<std::uint32_t> generation{0};
  alignas(64) std::atomic<int> next{0};
  alignas(64) std::atomic<int> busy{0};  // helpers that have not finished this loop
  std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;

  void work(int worker) {
    for (int index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;) (*fn)(index, worker);
  }

  void help(int worker) {
    std::uint32_t seen = 0;
    while (true) {
      int spins = 0;
      while (generation.load(std::memory_order_acquire) == seen && !stop.load(std::memory_order_relaxed)) {
        if (++spins < kSpins) {
          relax();
          continue;
        }
        std::unique_lock lock(mutex);
        sleepers.fetch_add(1, std::memory_order_seq_cst);
        wake.wait(lock, [&] { return generation.load(std::memory_order_seq_cst) != seen || stop.load(); });
        sleepers.fetch_sub(1, std::memory_order_relaxed);
      }
      if (stop.load(std::memory_order_relaxed)) return;
      seen = generation.load(std::memory_order_acquire);
      work(worker);
      busy.fetch_sub(1, std::memory_order_release);
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
  s.busy.store(s.size - 1, std::memory_order_relaxed);
  s.generation.fetch_add(1, std::memory_order_seq_cst);
  if (s.sleepers.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard lock(s.mutex);  // a helper between its check and its sleep holds this
    s.wake.notify_all();
  }
  s.work(0);
  // Every helper must have left the loop before fn dies.
  for (int spins = 0; s.busy.load(std::memory_order_acquire) > 0;) {
    if (++spins < kSpins) relax();
    else std::this_thread::yield();
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
