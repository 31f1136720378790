#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "base/cores.h"
#include "base/futex.h"
#include "base/guest_loops.h"
#include "base/relax.h"
#include "base/result.h"

namespace ashlar {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr microseconds kIdleSpin{300};  // longer than the gap between two layers
constexpr microseconds kPatience{100};  // with a thread in its last index before asking, twice, whether it runs at all
constexpr microseconds kBusySpin{500};  // with threads that do run
constexpr microseconds kNap{1000};      // and between questions from then on

constexpr std::size_t kHandlers = 16 << 10;  // bytes of a stack, beyond what the kernel puts there

class SignalStack {
 public:
  SignalStack() {
    stack_t there{};
    if (::sigaltstack(nullptr, &there) != 0 || (there.ss_flags & SS_DISABLE) == 0) return;  // a sanitizer has made one
    const std::size_t size = static_cast<std::size_t>(std::max(0L, ::sysconf(_SC_MINSIGSTKSZ))) + kHandlers;
    memory_ = std::make_unique_for_overwrite<char[]>(size);
    there = {.ss_sp = memory_.get(), .ss_flags = 0, .ss_size = size};
    ::sigaltstack(&there, nullptr);
  }
  ~SignalStack() {
    const stack_t none{.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
    if (memory_ != nullptr) ::sigaltstack(&none, nullptr);
  }
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  std::unique_ptr<char[]> memory_;
};

// True as soon as done(); false when the time is over.
bool spin_until(Clock::time_point end, auto&& done) {
  while (true) {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      relax();
    }
    if (Clock::now() >= end) return done();
  }
}

// The gate of the current loop: generation << 32 | open | helpers inside. A loop is published by a new
// generation with the gate open; a helper enters by counting itself in while it is open. The caller, when no
// index is left, closes the gate and waits for those inside: never for a helper that was asleep or held up elsewhere.
constexpr std::uint64_t kOpen = 1u << 31, kInside = kOpen - 1;

std::uint32_t generation_of(std::uint64_t gate) { return static_cast<std::uint32_t>(gate >> 32); }

}  // namespace

// Who lost the core to a foreign process inside an index would hold up everybody until the kernel gives it the
// core back, milliseconds later, at most of a step's hundred loops. So those who wait for such a thread fetch it to
// their own core, which they leave to it. A fetched helper then goes back to the core it came from, to wait for it
// outside any loop; a fetched caller stays, and the helper that fetched it takes the core that the caller had.
// Where there is a thread for each core, each helper is confined to its home; elsewhere the kernel may move it on.
struct ThreadPool::State {
  struct Helper {
    ThreadId id;
    std::atomic<bool> inside{false};
    std::atomic<bool> fetched{false};
    int home = -1;  // or where it was when it entered the loop; used by the helper alone
    Watch watch;    // used by the caller alone
    std::jthread thread;
  };

  int size = 1;
  bool homes = false;
  cpu_set_t allowed{};
  std::vector<std::unique_ptr<Helper>> helpers;
  std::atomic<int> spare{-1};

  const FunctionRef<void(int, int)>* fn = nullptr;
  std::atomic<int> count{0};
  std::atomic<ThreadId> caller{};
  std::atomic<int> caller_core{-1};
  alignas(64) std::atomic<std::uint64_t> gate{0};
  alignas(64) std::atomic<int> next{0};
  alignas(64) std::atomic<int> sleepers{0};
  FutexWord bell{0};          // rung for sleepers
  FutexWord caller_waits{0};  // for the last helper inside
  std::atomic<bool> stop{false};

  void work(int worker) {
    for (int index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count.load(std::memory_order_relaxed);)
      (*fn)(index, worker);
  }

  bool enter(std::uint32_t generation) {
    std::uint64_t now = gate.load(std::memory_order_acquire);
    while ((now & kOpen) != 0 && generation_of(now) == generation)
      if (gate.compare_exchange_weak(now, now + 1, std::memory_order_acquire)) return true;
    return false;
  }

  void leave() {
    const std::uint64_t now = gate.fetch_sub(1, std::memory_order_seq_cst) - 1;
    if ((now & (kOpen | kInside)) == 0 && caller_waits.load(std::memory_order_seq_cst) != 0) {
      caller_waits.store(0);
      futex_wake_all(caller_waits);
    }
  }

  void go_home(Helper& self) {
    confine(self.id, self.home);
    if (!homes) confine(self.id, allowed);
  }

  void take_callers_core(Helper& self) {
    self.home = homes ? spare.exchange(self.home) : caller_core.load(std::memory_order_relaxed);
    go_home(self);
  }

  // With the caller in its last index: if it does not run, here it may.
  void fetch_caller(Helper& self, std::uint32_t generation, Watch& watch) {
    const ThreadId who = caller.load(std::memory_order_relaxed);
    if (!watch.held_up(who) || !enter(generation)) return;  // while somebody is inside, the caller stays in the loop
    const cpu_set_t cores = confinement(who);
    confine(who, sched_getcpu());
    confine(who, cores);
    leave();
    take_callers_core(self);
  }

  // Waits for another generation than `seen`, or stop.
  void await_loop(Helper& self, std::uint32_t seen) {
    const auto ready = [&] {
      return generation_of(gate.load(std::memory_order_seq_cst)) != seen || stop.load(std::memory_order_relaxed);
    };
    const auto start = Clock::now();
    Watch watch;
    for (auto at = kPatience; at <= kIdleSpin; at += kPatience) {
      if (spin_until(start + at, ready)) return;
      const std::uint64_t now = gate.load(std::memory_order_acquire);
      if ((now & kOpen) != 0 && generation_of(now) == seen &&
          next.load(std::memory_order_relaxed) >= count.load(std::memory_order_relaxed))
        fetch_caller(self, seen, watch);
    }
    sleepers.fetch_add(1, std::memory_order_seq_cst);
    while (!ready()) {
      const std::uint32_t value = bell.load(std::memory_order_seq_cst);
      if (!ready()) futex_wait(bell, value);
    }
    sleepers.fetch_sub(1, std::memory_order_relaxed);
  }

  void help(Helper& self, int worker) {
    for (std::uint32_t seen = 0;;) {
      await_loop(self, seen);
      if (stop.load(std::memory_order_relaxed)) return;
      seen = generation_of(gate.load(std::memory_order_acquire));
      if (!enter(seen)) continue;
      self.inside.store(true, std::memory_order_release);
      if (!homes) self.home = sched_getcpu();
      const bool crowded = homes && caller_core.load(std::memory_order_relaxed) == self.home;
      work(worker);
      self.inside.store(false, std::memory_order_release);
      leave();
      if (crowded)
        take_callers_core(self);
      else if (self.fetched.load(std::memory_order_relaxed) && self.fetched.exchange(false))
        go_home(self);
    }
  }

  void await_helpers() {
    const auto done = [&] { return (gate.load(std::memory_order_seq_cst) & kInside) == 0; };
    const auto start = Clock::now();
    if (spin_until(start + kPatience, done)) return;
    for (const auto& helper : helpers) helper->watch = {};
    while (true) {
      bool fetched = false;
      for (const auto& helper : helpers) {
        if (!helper->inside.load(std::memory_order_acquire) || !helper->watch.held_up(helper->id)) continue;
        helper->fetched.store(true, std::memory_order_relaxed);
        confine(helper->id, sched_getcpu());
        fetched = true;
      }
      const auto now = Clock::now();
      if (!fetched && now - start < kBusySpin) {
        if (spin_until(now + kPatience, done)) return;
        continue;
      }
      caller_waits.store(1, std::memory_order_seq_cst);
      if (!done()) futex_wait(caller_waits, 1, kNap);
      caller_waits.store(0, std::memory_order_seq_cst);
      if (done()) return;
    }
  }
};

ThreadPool::ThreadPool(int threads, bool pin) : state_(std::make_unique<State>()) {
  State& s = *state_;
  const std::vector<int> cores = allowed_cores();
  s.size = threads < 1 ? available_cores() : threads;
  s.allowed = confinement(ThreadId::current());
  s.homes = pin && cores.size() == static_cast<std::size_t>(s.size);
  if (s.homes) s.spare = cores[0];
  std::atomic<int> started = 0;
  for (int worker = 1; worker < s.size; ++worker) {
    State::Helper& helper = *s.helpers.emplace_back(std::make_unique<State::Helper>());
    if (s.homes) helper.home = cores[static_cast<std::size_t>(worker)];
    helper.thread = std::jthread([&s, &helper, &started, worker] {
      begin_thread("ashlar-pool");
      helper.id = ThreadId::current();
      if (s.homes) s.go_home(helper);
      started.fetch_add(1);
      started.notify_one();
      s.help(helper, worker);
    });
  }
  for (int n; (n = started.load()) < s.size - 1;) started.wait(n);
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_seq_cst);
  state_->bell.fetch_add(1);
  futex_wake_all(state_->bell);
  for (auto& helper : state_->helpers) helper->thread.join();
}

int ThreadPool::size() const { return state_->size; }

void ThreadPool::for_each(int count, FunctionRef<void(int, int)> fn) {
  State& s = *state_;
  if (count <= 0) return;
  if (GuestLoops* const guest = GuestLoops::here(); guest != nullptr && count > 1) return guest->run(*this, count, fn);
  if (s.size == 1 || count == 1) {
    for (int index = 0; index < count; ++index) fn(index, 0);
    return;
  }
  thread_local const ThreadId self = ThreadId::current();
  s.fn = &fn;
  s.count.store(count, std::memory_order_relaxed);
  s.caller.store(self, std::memory_order_relaxed);
  s.caller_core.store(sched_getcpu(), std::memory_order_relaxed);
  s.next.store(0, std::memory_order_relaxed);
  const std::uint64_t generation = (s.gate.load(std::memory_order_relaxed) >> 32) + 1;
  s.gate.store(generation << 32 | kOpen, std::memory_order_seq_cst);
  if (s.sleepers.load(std::memory_order_seq_cst) > 0) {
    s.bell.fetch_add(1);
    futex_wake_all(s.bell);
  }
  s.work(0);
  s.gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  s.await_helpers();
}

int available_cores() { return std::max(1, static_cast<int>(allowed_cores().size())); }

void begin_thread(const char* name) {
  pthread_setname_np(pthread_self(), name);
  thread_local const SignalStack stack;
}

}  // namespace ashlar
