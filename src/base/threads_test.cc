// The pool beside foreign work, and what it is made of.
#include "base/threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include "base/cores.h"
#include "base/futex.h"
#include "base/guest_loops.h"

namespace ashlar {
namespace {

// Keeps one core busy while it lives.
class Busy {
 public:
  explicit Busy(int core)
      : thread_([core](std::stop_token stop) {
          confine(ThreadId::current(), core);
          while (!stop.stop_requested()) {
          }
        }) {}

 private:
  std::jthread thread_;
};

void run_loops(ThreadPool& pool, int loops) {
  for (int loop = 0; loop < loops; ++loop) {
    std::vector<std::atomic<int>> seen(16);
    pool.for_each(16, [&](int index, int) {
      [[maybe_unused]] volatile int sink = 0;
      for (int i = 0; i < 20'000; ++i) sink = i;
      seen[static_cast<std::size_t>(index)].fetch_add(1, std::memory_order_relaxed);
    });
    for (const auto& each : seen) ASSERT_EQ(each.load(), 1);
  }
}

TEST(ThreadPool, GoesOnWhileAnyCoreIsBusyWithOtherThings) {
  const cpu_set_t before = confinement(ThreadId::current());
  for (const bool pin : {false, true}) {
    ThreadPool pool(0, pin);
    for (const int core : allowed_cores()) {
      const Busy busy(core);
      run_loops(pool, 50);
    }
    run_loops(pool, 20);
  }
  const cpu_set_t after = confinement(ThreadId::current());
  EXPECT_TRUE(CPU_EQUAL(&before, &after)) << "the pool moved its caller, and let it go again";
}

TEST(ThreadPool, ServesCallersInTurn) {
  ThreadPool pool(0, /*pin=*/true);
  std::mutex turn;
  std::vector<std::jthread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        std::lock_guard lock(turn);
        run_loops(pool, 1);
      }
    });
}

// A fair lock that tells how many wait for it.
class Turns {
 public:
  void lock() {
    const int mine = last_.fetch_add(1);
    for (int now; (now = next_.load()) != mine;) next_.wait(now);
  }
  void unlock() {
    next_.fetch_add(1);
    next_.notify_all();
  }
  bool is_wanted() const { return last_.load() - next_.load() > 1; }
  int taken() const { return next_.load(); }

 private:
  std::atomic<int> last_{0}, next_{0};
};

TEST(GuestLoops, DoEachIndexOnceAndLeaveTheLoopsOfOthersAlone) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    Turns turns;
    {
      const GuestLoops guest(turns, {.least = std::chrono::microseconds(1), .most = std::chrono::microseconds(1)});
      run_loops(pool, 5);
      EXPECT_GT(turns.taken(), 5) << "a loop takes several turns";
      const int before = turns.taken();
      pool.for_each(1, [](int, int) {});
      EXPECT_EQ(turns.taken(), before);
      std::jthread([&] { run_loops(pool, 1); }).join();
      EXPECT_EQ(turns.taken(), before);
    }
    const int before = turns.taken();
    run_loops(pool, 1);
    EXPECT_EQ(turns.taken(), before);
  }
}

TEST(GuestLoops, LetOthersInBetweenSlices) {
  ThreadPool pool(2);
  Turns turns;
  std::atomic<int> came{0}, done{0};
  std::atomic<bool> over{false};
  std::jthread other([&] {
    while (!over) {
      const std::lock_guard turn(turns);
      ++came;
      pool.for_each(4, [&](int, int) { done.fetch_add(1); });
    }
  });
  const GuestLoops guest(turns, {.least = std::chrono::microseconds(0), .most = std::chrono::microseconds(0)});
  constexpr int kLoops = 20;
  for (int loop = 0; loop < kLoops; ++loop) {
    int before = 0;
    pool.for_each(100, [&](int index, int) {
      if (index == 0) {
        while (!turns.is_wanted()) std::this_thread::yield();
        before = came.load();
      }
      if (index == 99) EXPECT_GT(came.load(), before) << "who waits has a turn before the next slice";
    });
  }
  over = true;
  other.join();
  EXPECT_EQ(done.load(), 4 * came.load());
}

TEST(Futex, SleepsUntilTheWordChangesOrTheTimeIsOver) {
  FutexWord word{1};
  futex_wait(word, 0);  // holds something else already
  futex_wait(word, 1, std::chrono::milliseconds(1));
  std::jthread changer([&] {
    word.store(2);
    futex_wake_all(word);
  });
  while (word.load() == 1) futex_wait(word, 1);
}

TEST(Cores, AThreadCanBeMoved) {
  const ThreadId self = ThreadId::current();
  const cpu_set_t before = confinement(self);
  for (const int core : allowed_cores()) {
    confine(self, core);
    EXPECT_EQ(sched_getcpu(), core);
  }
  confine(self, before);
  EXPECT_EQ(available_cores(), CPU_COUNT(&before));
}

TEST(Watch, SeesThatAThreadDoesNotRun) {
  FutexWord ready{0}, end{0};
  ThreadId asleep;
  std::jthread sleeper([&] {
    asleep = ThreadId::current();
    ready.store(1);
    futex_wake_all(ready);
    while (end.load() == 0) futex_wait(end, 0);
  });
  while (ready.load() == 0) futex_wait(ready, 0);
  Watch watch;
  EXPECT_FALSE(watch.held_up(asleep)) << "the first question only starts the watch";
  bool held_up = false;
  while (!held_up) held_up = watch.held_up(asleep);  // as soon as it sleeps
  end.store(1);
  futex_wake_all(end);
}

}  // namespace
}  // namespace ashlar
