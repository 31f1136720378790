#include "gateway/rollout/memory_alarm.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "base/json_full.h"
#include "gateway/routing/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

class Heard final : public EventLog {
 public:
  void write(OperatorEvent event) override { kinds.push_back(event.kind); }
  std::vector<std::string> kinds;
};

TEST(MemoryAlarm, LetsFewerInAndIdleModelsOutUntilThereIsRoom) {
  double share = 0.5, stalled = 0.2;
  int running = 20, unloaded = 0;
  Heard events;
  MemoryAlarm alarm({.share = [&] { return share; },
                     .stalled = [&] { return stalled; },
                     .running = [&] { return running; },
                     .unload_idle = [&] { ++unloaded; },
                     .events = &events,
                     .own_thread = false});
  auto request = fake::ask();
  alarm.turn();
  EXPECT_FALSE(alarm.admit(request).has_value());
  share = 0.96;
  alarm.turn();
  EXPECT_EQ(unloaded, 1);
  ASSERT_TRUE(alarm.admit(request).has_value());
  EXPECT_EQ(alarm.admit(request)->error.code, Code::unavailable);
  EXPECT_GT(alarm.admit(request)->retry_after.count(), 0);
  running = 9;  // of half of twenty
  EXPECT_FALSE(alarm.admit(request).has_value());
  alarm.turn();
  EXPECT_TRUE(alarm.admit(request).has_value()) << "it goes on: fewer still";
  request.priority = -1;
  EXPECT_FALSE(alarm.admit(request).has_value());
  request.priority = 0;
  for (int i = 0; i < 100; ++i) alarm.turn();
  running = 0;
  EXPECT_FALSE(alarm.admit(request).has_value()) << "one at a time always";
  running = 20;
  stalled = 0;
  share = 0.92;
  alarm.turn();
  EXPECT_TRUE(alarm.admit(request).has_value()) << "not yet";
  share = 0.89;
  alarm.turn();
  EXPECT_FALSE(alarm.admit(request).has_value());
  share = 0.96;
  alarm.turn();
  EXPECT_FALSE(alarm.on()) << "a full cache is no fault as long as nobody waits for memory";
  EXPECT_EQ(events.kinds, (std::vector<std::string>{"memory.high", "memory.fine"}));
}

TEST(MemoryAlarm, LooksByItself) {
  std::atomic<int> unloaded = 0;
  MemoryAlarm alarm(
      {.every = std::chrono::milliseconds(1), .share = [] { return 0.99; }, .unload_idle = [&] { ++unloaded; }});
  while (unloaded < 3) std::this_thread::yield();
  EXPECT_TRUE(alarm.on());
}

TEST(MemoryAlarm, TheSystemSaysHowMuchIsTaken) {
  const auto share = memory_share();
  ASSERT_TRUE(share.has_value());
  EXPECT_GT(*share, 0);
  EXPECT_LT(*share, 1.01);
}

}  // namespace
}  // namespace ashlar::gateway
