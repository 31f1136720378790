#include "gateway/upstreams/told_load.h"

#include <gtest/gtest.h>

#include <string>

#include "gateway/upstreams/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

TEST(ToldLoad, IsReadFromThePagesOfEveryServer) {
  const auto vllm = read_told_load(
      "# HELP vllm:num_requests_waiting Number of requests waiting to be processed.\n"
      "vllm:num_requests_waiting{engine=\"0\",model_name=\"a } b\"} 3.0\n"
      "vllm:num_requests_waiting{engine=\"1\",model_name=\"a\"} 4.0 1700000000\n"
      "vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.5\r\n");
  ASSERT_TRUE(vllm);
  EXPECT_EQ(vllm->waiting, 7);
  EXPECT_EQ(vllm->kv_used, 0.5);
  EXPECT_EQ(read_told_load("vllm:gpu_cache_usage_perc 0.97")->kv_used, 0.97);
  EXPECT_EQ(read_told_load("sglang:num_queue_reqs{x=\"y\"} 1001\nsglang:token_usage 0.1\n")->waiting, 1001);
  EXPECT_EQ(read_told_load("tgi_queue_size 2\n")->waiting, 2);
  EXPECT_EQ(read_told_load("llamacpp:requests_deferred 5\nllamacpp:kv_cache_usage_ratio 0.3\n")->waiting, 5);
}

TEST(ToldLoad, OfWhatIsNoneNothingIsRead) {
  for (const char* page : {"", "\n\n", "<html>", "up 1\n", "vllm:num_requests_waiting", "vllm:num_requests_waiting{x 3",
                           "vllm:num_requests_waiting NaN", "vllm:num_requests_waiting -1",
                           "vllm:num_requests_waiting_total 4", "# vllm:num_requests_waiting 4"})
    EXPECT_FALSE(read_told_load(page)) << page;
  EXPECT_EQ(read_told_load("vllm:num_requests_waiting 1e300\nvllm:kv_cache_usage_perc 99")->kv_used, 1.0);
  EXPECT_EQ(read_told_load("vllm:num_requests_waiting +Inf\nvllm:num_requests_waiting 2")->waiting, 2);
}

TEST(ToldLoad, IsAskedForAndPassedOnUntilItIsNotTold) {
  std::atomic<bool> tells = true;
  FakeServer server([&](const FakeServer::Turn& turn, int) {
    if (!turn.head.starts_with("GET /metrics ")) return turn.answer(404, "application/json", "{}");
    if (!tells) return turn.answer(404, "text/plain", "not here");
    turn.answer(200, "text/plain", "vllm:num_requests_waiting 1234\nvllm:kv_cache_usage_perc 0.96\n");
  });
  UpstreamOptions options = options_for(server);
  options.load_interval = std::chrono::milliseconds(20);
  const auto upstream = Upstream::create(options);
  ASSERT_TRUE(upstream) << upstream.error().message;
  const auto wait_for = [&](int waiting, double kv_used) {
    for (auto load = (*upstream)->load(); load.waiting != waiting || load.kv_used != kv_used;
         load = (*upstream)->load())
      std::this_thread::yield();
  };
  wait_for(1234, 0.96);
  tells = false;
  wait_for(0, 0);
}

}  // namespace
}  // namespace ashlar::gateway
