#include "base/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace ashlar {
namespace {

TEST(ThreadPool, DoesEachIndexOnce) {
  ThreadPool pool(4);
  for (int count = 0; count < 300; ++count) {
    std::vector<std::atomic<int>> done(static_cast<std::size_t>(count));
    pool.for_each(count, [&](int index, int worker) {
      EXPECT_LT(worker, pool.size());
      done[static_cast<std::size_t>(index)].fetch_add(1);
    });
    for (auto& times : done) ASSERT_EQ(times.load(), 1);
  }
}

// What one loop wrote is seen by the next, whichever thread did it.
TEST(ThreadPool, LoopsFollowEachOther) {
  ThreadPool pool(3);
  std::vector<int> values(64, 0);
  for (int round = 0; round < 2000; ++round)
    pool.for_each(64, [&](int index, int) { values[static_cast<std::size_t>(index)] += 1; });
  for (const int value : values) EXPECT_EQ(value, 2000);
}

}  // namespace
}  // namespace ashlar
