// What another Ashlar says of its cache: taken over, followed, and not believed where it cannot be.
#include "gateway/upstreams/prefix_copy.h"

#include <gtest/gtest.h>

#include <atomic>

#include "gateway/upstreams/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

using Keys = std::vector<std::uint64_t>;

std::string answer(int sequence, bool whole, const std::string& keys, const std::string& tokens,
                   const std::string& book = "00000000000000aa") {
  return R"({"book":")" + book + R"(","sequence":)" + std::to_string(sequence) + R"(,"whole":)" +
         (whole ? "true" : "false") + R"(,"cut":false,"keys":")" + keys + R"(","tokens":[)" + tokens + "]}";
}
const std::string kOne = "0000000000000001", kTwo = "0000000000000002";

TEST(PrefixCopy, FollowsChangesAndCountsKeysThatComeTwice) {
  PrefixCopy copy;
  EXPECT_FALSE(copy.told());
  ASSERT_TRUE(copy.take(answer(10, true, kOne + kTwo + kOne, "16,32,16"), copy.place()));
  EXPECT_TRUE(copy.told());
  EXPECT_EQ(copy.cached(Keys{1, 2}), 32);
  EXPECT_EQ(copy.cached(Keys{1, 9}), 16);
  EXPECT_EQ(copy.cached(Keys{9}), 0);
  ASSERT_TRUE(copy.take(answer(12, false, kTwo + kOne, "0,0"), copy.place()));
  EXPECT_EQ(copy.cached(Keys{1, 2}), 16) << "once more than it went";
  ASSERT_TRUE(copy.take(answer(14, false, kOne + kTwo, "0,48"), copy.place()));
  EXPECT_EQ(copy.cached(Keys{1}), 0);
  EXPECT_EQ(copy.cached(Keys{1, 2}), 48);
  ASSERT_TRUE(copy.take(answer(1, true, kOne, "64", "00000000000000bb"), copy.place()));
  EXPECT_EQ(copy.cached(Keys{1, 2}), 64) << "it began anew";
  EXPECT_EQ(copy.size(), 1U);
}

TEST(PrefixCopy, ForgetsAllWhereTheNewsDoNotGoOn) {
  for (const std::string& news :
       {answer(13, false, kTwo, "32"), answer(11, false, kTwo, "32", "00000000000000bb"), std::string("no JSON"),
        std::string("[]"), answer(11, false, kTwo, "32,16"), answer(11, false, kTwo, "-1"),
        answer(11, false, "000000000000000x", "16"), answer(11, false, kTwo, "1e99"), answer(11, false, "02", "16")}) {
    PrefixCopy copy;
    ASSERT_TRUE(copy.take(answer(10, true, kOne, "16"), copy.place()));
    EXPECT_FALSE(copy.take(news, copy.place())) << news;
    EXPECT_EQ(copy.size(), 0U) << news;
    EXPECT_EQ(copy.place().book, 0U) << "the whole is asked for next";
  }
}

TEST(PrefixCopy, IsNoLargerThanItMayBe) {
  PrefixCopy copy;
  std::string keys, tokens;
  int sequence = 0;
  for (int part = 0; part < 5; ++part) {
    keys.clear(), tokens.clear();
    for (int i = 0; i < 60'000; ++i) {
      char key[17];
      std::snprintf(key, sizeof key, "%016x", ++sequence);
      keys += key;
      tokens += i == 0 ? "16" : ",16";
    }
    ASSERT_TRUE(copy.take(answer(sequence, part == 0, keys, tokens), copy.place()));
  }
  EXPECT_EQ(copy.size(), 1U << 18);
  EXPECT_EQ(copy.cached(Keys{1}), 16);
}

// A server that says what it has, as long as it does, then is another, then says no more.
TEST(UpstreamBlocks, AreAskedForAndForgottenWithTheirServer) {
  std::atomic<int> phase = 0, asked = 0;
  std::atomic<bool> salted = false;
  FakeServer server([&](const FakeServer::Turn& turn, int) {
    if (turn.head.find("GET /v1/cache/prefixes/m?book=") != std::string::npos) {
      ++asked;
      if (phase == 0) return turn.answer(200, "application/json", answer(1, true, kOne, "16"));
      if (phase == 1) return turn.answer(200, "application/json", answer(5, true, kTwo, "32", "00000000000000bb"));
      if (phase == 2) return turn.answer(500, "text/plain", "no");
      return turn.answer(404, "text/plain", "no");
    }
    if (turn.head.starts_with("GET")) return turn.answer(200, "application/json", R"({"data":[{"id":"m"}]})");
    salted = turn.head.find("x-ashlar-prefix-salt: 00000000000000ff\r\n") != std::string::npos &&
             turn.json().value("cache_salt", "").size() == 64;
    turn.answer(200, "application/json",
                R"({"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}]})");
  });
  auto made = Upstream::create({.name = "up",
                                .url = server.url(),
                                .models = {{"m", "m"}},
                                .blocks_interval = std::chrono::milliseconds(10),
                                .allow_private = true});
  ASSERT_TRUE(made) << made.error().message;
  Upstream& upstream = **made;
  const auto until = [](const std::function<bool()>& right) {
    for (const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
         !right() && std::chrono::steady_clock::now() < end;)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return right();
  };
  const auto cached = [&] {
    const auto cache = upstream.cached_prefixes("m");
    return cache == nullptr ? -1 : cache->cached(Keys{1, 2});
  };
  EXPECT_EQ(upstream.cached_prefixes("nobody"), nullptr);
  EXPECT_TRUE(until([&] { return cached() == 16; }));
  phase = 1;
  EXPECT_TRUE(until([&] { return cached() == 32; })) << "it came anew";
  phase = 2;
  EXPECT_TRUE(until([&] { return cached() == 0; })) << "it is down: nothing is there";
  phase = 3;
  EXPECT_TRUE(until([&] { return cached() == -1; })) << "it tells no more";
  phase = 0;
  EXPECT_TRUE(until([&] { return cached() == 16; })) << "and again";

  HeardSink sink;
  engine::Request request{.id = "r", .model = "m", .tenant = "t"};
  request.prompt.input = "hello";
  request.prefix_salt = 255;
  auto ticket = upstream.start(request, sink);
  ASSERT_TRUE(ticket);
  sink.wait();
  EXPECT_TRUE(salted) << "the salts go along";
}

}  // namespace
}  // namespace ashlar::gateway
