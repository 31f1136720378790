#include "store/redis/client.h"

#include <gtest/gtest.h>

#include <future>

#include "store/redis/test_server.h"

namespace ashlar::store {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::string said(const Result<resp::Value>& answer) {
  return answer ? answer->text : std::string(name(answer.error().code));
}

// Calls until it is answered, for at most ten seconds.
std::string call_until_answered(RedisClient& client) {
  const auto until = Clock::now() + seconds(10);
  Result<resp::Value> answer;
  do answer = client.call({"PING"});
  while (!answer && Clock::now() < until);
  return said(answer);
}

TEST(RedisAddress, IsReadWithItsParts) {
  const auto all = parse_redis_url("rediss://ann:p%40ss:w@[::1]:7000/3");
  ASSERT_TRUE(all) << all.error().message;
  EXPECT_TRUE(all->tls);
  EXPECT_EQ(all->host, "::1");
  EXPECT_EQ(all->port, 7000);
  EXPECT_EQ(all->user, "ann");
  EXPECT_EQ(all->password, "p@ss:w");
  EXPECT_EQ(all->database, 3);
  const auto plain = parse_redis_url("redis://cache.example");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->host, "cache.example");
  EXPECT_EQ(plain->port, 6379);
  EXPECT_FALSE(plain->tls);
  for (const char* wrong : {"", "http://x", "redis://", "redis://:6379", "redis://h:x", "redis://h:70000",
                            "redis://h/x", "redis://[::1", "redis://[::1]x", "redis://u:%zz@h"})
    EXPECT_FALSE(parse_redis_url(wrong)) << wrong;
}

TEST(RedisClient, AnswersInOrderToManyThreads) {
  auto client = RedisClient::create(shared_redis().options());
  ASSERT_TRUE(client);
  std::vector<std::jthread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const std::string word = std::to_string(t * 1000 + i);
        ASSERT_EQ(said((*client)->call({"ECHO", word})), word);
      }
    });
}

TEST(RedisClient, EntersWithAPasswordAndChoosesADatabase) {
  RedisServer server({"--requirepass", "s3cret"});
  RedisOptions options = server.options();
  options.password = "s3cret";
  options.database = 5;
  auto client = RedisClient::create(options);
  EXPECT_EQ(said((*client)->call({"SET", "k", "v"})), "OK");
  EXPECT_NE(said((*client)->call({"CLIENT", "INFO"})).find(" db=5 "), std::string::npos);
  for (const char* wrong : {"", "h4ckme"}) {
    options.password = wrong;
    auto refused = RedisClient::create(options);
    const auto answer = (*refused)->call({"PING"});
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, Code::unauthorized);
    EXPECT_EQ(answer.error().message.find("h4ckme"), std::string::npos);
  }
}

TEST(RedisClient, ComesBackWhenTheServerDoes) {
  RedisServer server;
  auto client = RedisClient::create(server.options());
  EXPECT_EQ(said((*client)->call({"PING"})), "PONG");
  server.kill();
  EXPECT_NE(said((*client)->call({"PING"})), "PONG");
  server.start();
  EXPECT_EQ(call_until_answered(**client), "PONG");
}

TEST(RedisClient, AServerThatHangsIsGivenUpAndThenNotWaitedFor) {
  RedisServer server;
  RedisOptions options = server.options();
  options.timeout = milliseconds(100);
  options.connect_timeout = milliseconds(200);
  auto client = RedisClient::create(options);
  EXPECT_EQ(said((*client)->call({"PING"})), "PONG");
  server.stop();
  auto begin = Clock::now();
  EXPECT_EQ(said((*client)->call({"PING"})), "deadline");
  EXPECT_GE(Clock::now() - begin, milliseconds(90));
  EXPECT_LT(Clock::now() - begin, seconds(5));
  begin = Clock::now();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(said((*client)->call({"PING"})), "unavailable");
  EXPECT_LT(Clock::now() - begin, milliseconds(5'000)) << "each waited for a dead server";
  server.go_on();
  EXPECT_EQ(call_until_answered(**client), "PONG");
}

TEST(RedisClient, NobodyThereIsKnownAtOnce) {
  RedisOptions options;
  {
    RedisServer gone;
    options = gone.options();
  }
  auto client = RedisClient::create(options);
  EXPECT_EQ(said((*client)->call({"PING"})), "unavailable");
}

TEST(RedisClient, GarbageEndsTheConnectionAndNothingHangs) {
  std::string bomb;
  for (int i = 0; i < 1000; ++i) bomb += "*1000\r\n";
  for (const std::string& garbage :
       {std::string("HTTP/1.1 400 Bad Request\r\n\r\n"), std::string("\0\0\0\0", 4), std::string("$999999999999\r\n"),
        bomb, std::string("+OK\r\n+OK\r\n+OK\r\n+OK\r\n"),
        std::string("-ERR unknown command\r\n:1\r\n:2\r\n:3\r\n:4\r\n")}) {
    FakeRedis fake([&](std::string_view) { return garbage; });
    auto client = RedisClient::create(fake.options());
    for (int i = 0; i < 3; ++i) (void)(*client)->call({"PING"});
    EXPECT_TRUE(true) << "it came back";
  }
}

TEST(RedisClient, ClosesWhileCommandsAreOpen) {
  FakeRedis silent([](std::string_view bytes) {
    return bytes.find("HELLO") != bytes.npos ? std::string("%1\r\n+server\r\n+redis\r\n") : std::string("*2\r\n:1\r\n");
  });
  std::promise<std::string> ended;
  {
    auto client = RedisClient::create(silent.options());
    (*client)->send({"PING"}, [&](const Result<resp::Value>& answer) { ended.set_value(said(answer)); });
  }
  EXPECT_EQ(ended.get_future().get(), "cancelled");
}

}  // namespace
}  // namespace ashlar::store
