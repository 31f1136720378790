#include "store/redis/client.h"

#include <gmock/gmock.h>

#include <future>

#include "net/identity_for_test.h"
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
    // Who asks when the refusal has come already is told that of a connection which is not there.
    for (Code code = Code::unavailable; code == Code::unavailable;) {
      auto refused = RedisClient::create(options);
      const auto answer = (*refused)->call({"PING"});
      ASSERT_FALSE(answer);
      EXPECT_EQ(answer.error().message.find("h4ckme"), std::string::npos);
      EXPECT_NE(answer.error().message.find("does not let us in"), std::string::npos) << answer.error().message;
      code = answer.error().code;
      if (code != Code::unavailable) EXPECT_EQ(code, Code::unauthorized);
    }
  }
}

// A Redis that speaks TLS, and asks for a certificate as Redis does unless it is told otherwise.
class RedisTls : public testing::Test {
 protected:
  std::vector<std::string> arguments(const net::Identity& identity) const {
    return {"--tls-cert-file", identity.certificate(), "--tls-key-file",
            identity.key(),    "--tls-ca-cert-file",   ca.certificate()};
  }
  RedisOptions options(const RedisServer& server) const {
    return {.host = "localhost",
            .port = server.tls_port(),
            .tls = true,
            .tls_ca = ca.certificate(),
            .tls_cert = ours.certificate(),
            .tls_key = ours.key(),
            .connect_timeout = seconds(10),
            .timeout = seconds(10),
            .least_pause = milliseconds(2)};
  }
  static std::string trouble(const RedisOptions& with) {
    auto client = RedisClient::create(with);
    if (!client) return client.error().message;
    const auto answer = (*client)->call({"PING"});
    return answer ? "none: " + answer->text : answer.error().message;
  }

  const net::Identity ca{"ca"}, ours{"ours", &ca};
};

TEST_F(RedisTls, CarriesCommands) {
  const net::Identity theirs("redis", &ca);
  RedisServer server(arguments(theirs), /*tls=*/true);
  auto client = RedisClient::create(options(server));
  ASSERT_TRUE(client) << client.error().message;
  EXPECT_EQ(said((*client)->call({"PING"})), "PONG");
  const std::string large(300'000, 'x');
  EXPECT_EQ(said((*client)->call({"ECHO", large})), large);
  server.kill();
  EXPECT_NE(said((*client)->call({"PING"})), "PONG");
  server.start();
  EXPECT_EQ(call_until_answered(**client), "PONG");
  RedisOptions by_address = options(server);
  by_address.host = "127.0.0.1";
  EXPECT_EQ(trouble(by_address), "none: PONG");
}

TEST_F(RedisTls, RefusesWhoIsNotMeant) {
  using testing::HasSubstr;
  const net::Identity theirs("redis", &ca), other("other");
  RedisServer server(arguments(theirs), /*tls=*/true);
  RedisOptions wrong = options(server);
  wrong.tls_ca = other.certificate();
  EXPECT_THAT(trouble(wrong), HasSubstr("the peer's certificate is refused: self-signed certificate in"));
  wrong.tls_ca = {};
  EXPECT_THAT(trouble(wrong), HasSubstr("the peer's certificate is refused")) << "no authority of the system signed it";
  wrong.tls_ca = "/nowhere.pem";
  EXPECT_THAT(trouble(wrong), HasSubstr("/nowhere.pem: cannot use this CA certificate"));

  const net::Identity elsewhere("redis", &ca, {.names = "DNS:redis.example"});
  RedisServer misnamed(arguments(elsewhere), /*tls=*/true);
  EXPECT_THAT(trouble(options(misnamed)), HasSubstr("the peer's certificate is refused: hostname mismatch"));
  RedisOptions by_address = options(misnamed);
  by_address.host = "127.0.0.1";
  EXPECT_THAT(trouble(by_address), HasSubstr("the peer's certificate is refused: IP address mismatch"));

  const net::Identity old("redis", &ca, {.seconds = -60});
  RedisServer expired(arguments(old), /*tls=*/true);
  EXPECT_THAT(trouble(options(expired)), HasSubstr("the peer's certificate is refused: certificate has expired"));
}

TEST_F(RedisTls, ShowsACertificateWhereOneIsWanted) {
  const net::Identity theirs("redis", &ca), stranger("stranger");
  RedisServer server(arguments(theirs), /*tls=*/true);
  RedisOptions without = options(server);
  without.tls_cert = without.tls_key = {};
  EXPECT_THAT(trouble(without), testing::Not(testing::HasSubstr("PONG")));
  RedisOptions with_another = options(server);
  with_another.tls_cert = stranger.certificate();
  with_another.tls_key = stranger.key();
  EXPECT_THAT(trouble(with_another), testing::Not(testing::HasSubstr("PONG")));
  // Plain text to the port of TLS, and TLS to the port of plain text.
  RedisOptions plain = options(server);
  plain.tls = false;
  EXPECT_THAT(trouble(plain), testing::Not(testing::HasSubstr("PONG")));
  RedisOptions crossed = options(server);
  crossed.port = server.options().port;
  crossed.connect_timeout = milliseconds(200);  // it waits for the end of what it takes for a command
  EXPECT_THAT(trouble(crossed), testing::Not(testing::HasSubstr("PONG")));
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
  EXPECT_LT(Clock::now() - begin, seconds(30));
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
