#include "api/wrong_keys.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "api/fakes_for_test.h"

namespace ashlar::api {
namespace {

using gateway::parse_address;
using std::chrono::milliseconds;

TEST(WrongKeys, ABurstIsToldAndThenOneEachWhile) {
  WrongKeys wrong;
  const auto from = parse_address("192.0.2.7");
  WrongKeys::Clock::time_point now{};
  now += std::chrono::hours(1);
  int keys = 0;
  const auto guess = [&] { return wrong.count(from, fmt::format("key {}", ++keys), now); };
  for (int i = 0; i < WrongKeys::kBurst; ++i) EXPECT_FALSE(guess());
  EXPECT_EQ(guess(), WrongKeys::kEach);
  EXPECT_FALSE(wrong.count(parse_address("192.0.2.8"), "key", now)) << "a neighbour";
  now += WrongKeys::kEach - milliseconds(1);
  EXPECT_EQ(guess(), milliseconds(1));
  now += milliseconds(1);
  EXPECT_FALSE(guess());
  EXPECT_TRUE(guess()) << "what is refused does not lengthen the wait";
  now += WrongKeys::kBurst * WrongKeys::kEach;
  for (int i = 0; i < WrongKeys::kBurst; ++i) EXPECT_FALSE(guess());
}

TEST(WrongKeys, TheSameOneAgainIsNoGuess) {
  WrongKeys wrong;
  const auto from = parse_address("192.0.2.7");
  const WrongKeys::Clock::time_point now{};
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(wrong.count(from, "the key that was rotated", now));
  for (int i = 1; i < WrongKeys::kBurst; ++i) EXPECT_FALSE(wrong.count(from, fmt::format("{}", i), now));
  EXPECT_TRUE(wrong.count(from, "another", now));
}

TEST(WrongKeys, AnIpv6CustomerIsOneNetwork) {
  WrongKeys wrong;
  const WrongKeys::Clock::time_point now{};
  for (int i = 0; i < WrongKeys::kBurst; ++i)
    wrong.count(parse_address(fmt::format("2001:db8:1:2::{:x}", i)), fmt::format("{}", i), now);
  EXPECT_TRUE(wrong.count(parse_address("2001:db8:1:2:ffff::1"), "x", now));
  EXPECT_FALSE(wrong.count(parse_address("2001:db8:1:3::1"), "x", now));
}

TEST(WrongKeys, HoldsSoManyNetworksAndNoMore) {
  WrongKeys wrong;
  WrongKeys::Clock::time_point now{};
  for (unsigned i = 0; i < WrongKeys::kMostNetworks + 100; ++i) {
    const auto from = parse_address(fmt::format("10.{}.{}.{}", i >> 16, i >> 8 & 255, i & 255));
    EXPECT_EQ(wrong.count(from, fmt::format("{}", i), now).has_value(),
              i >= WrongKeys::kMostNetworks + WrongKeys::kBurst)
        << i;
  }
  EXPECT_EQ(wrong.size(), WrongKeys::kMostNetworks);
  now += std::chrono::minutes(5);
  EXPECT_FALSE(wrong.count(parse_address("192.0.2.1"), "x", now));
  EXPECT_EQ(wrong.size(), 1u) << "who is quiet is forgotten";
}

TEST(WrongKeys, RightOnesAreLetInWhateverElseComesFromThere) {
  ApiOptions options;
  options.api_key = {"right"};
  World world(options);
  const auto status = [&](const std::string& key) {
    return world.ask("GET", "/v1/models", "", {{"authorization", "Bearer " + key}})->status();
  };
  int told = 0, waits = 0;
  for (int i = 0; i < 100; ++i) {
    const int answer = status(fmt::format("wrong{}", i));
    told += answer == 401;
    waits += answer == 429;
    EXPECT_EQ(status("right"), 200);
  }
  EXPECT_GE(told, WrongKeys::kBurst);
  EXPECT_LE(told, WrongKeys::kBurst + 20);
  EXPECT_EQ(told + waits, 100);
  const auto refused = world.ask("GET", "/v1/models", "", {{"authorization", "Bearer wrong"}});
  EXPECT_FALSE(refused->header("retry-after").empty());
}

}  // namespace
}  // namespace ashlar::api
