// What becomes of counters on Redis when Redis fails: no money is spent unseen, rates go on, nothing hangs.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "store/counters_for_test.h"
#include "store/redis/test_server.h"

namespace ashlar::store {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

const Limit kBudget = money("budget", 100);
const Limit kRate = limit_of(LimitKind::sliding_window, "rate", 100, hours(1));

std::unique_ptr<Counters> counters_on(const RedisOptions& server, RedisCountersOptions options = {}) {
  auto counters = redis_counters(server, std::move(options));
  EXPECT_TRUE(counters);
  return std::move(*counters);
}

RedisOptions quick(RedisOptions options) {
  options.timeout = milliseconds(100);
  options.connect_timeout = milliseconds(200);
  options.most_pause = milliseconds(20);
  return options;
}

bool admitted(Counters& counters, const std::string& id, std::vector<Charge> charges) {
  const auto verdict = counters.reserve(id, charges);
  return verdict && verdict->admitted;
}

Code code_of(Counters& counters, const std::string& id, std::vector<Charge> charges) {
  const auto verdict = counters.reserve(id, charges);
  return verdict ? Code::internal : verdict.error().code;
}

std::int64_t remaining(Counters& counters, const Limit& limit) {
  const auto standings = counters.look({&limit, 1});
  return standings ? standings->at(0).remaining : -1;
}

// Until Redis is reached again, for at most ten seconds.
void wait_until_back(Counters& counters) {
  const auto until = Clock::now() + seconds(10);
  while (remaining(counters, kBudget) < 0 && Clock::now() < until) continue;
  EXPECT_TRUE(counters.health());
}

TEST(RedisCounters, SeveralProcessesShareABudgetExactly) {
  RedisServer server;
  std::vector<pid_t> workers;
  const std::string port = std::to_string(server.options().port);
  for (int i = 0; i < 4; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::setenv("COUNTERS_PORT", port.c_str(), 1);
      ::execl("/proc/self/exe", "worker", "--gtest_filter=RedisCounters.DISABLED_Worker",
              "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr);
      ::_exit(127);
    }
    workers.push_back(pid);
  }
  int sum = 0;
  for (const pid_t worker : workers) {
    int status = 0;
    ::waitpid(worker, &status, 0);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  sum = std::atoi(server.ask({"GET", "admitted"}).text.c_str());
  EXPECT_EQ(sum, 100);
  EXPECT_EQ(remaining(*counters_on(server.options()), kBudget), 0);
}

// One of the processes above: 250 requests from 5 threads. Disabled, for it runs only where the test above starts it.
TEST(RedisCounters, DISABLED_Worker) {
  const char* port = std::getenv("COUNTERS_PORT");
  ASSERT_NE(port, nullptr);
  const RedisOptions server{.port = std::atoi(port), .timeout = seconds(10)};
  const auto counters = counters_on(server);
  std::atomic<int> inside = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 5; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 50; ++i)
          if (admitted(*counters, new_reservation_id(), {{kRate, 0}, {kBudget, 1}})) ++inside;
      });
  }
  auto client = RedisClient::create(server);
  ASSERT_TRUE((*client)->call({"INCRBY", "admitted", std::to_string(inside)}));
}

TEST(RedisCounters, MoneyStopsAndRatesGoOnWhileRedisIsGone) {
  RedisServer server;
  std::atomic<int> asked = 0;
  std::int64_t ledger = 0;
  auto counters = with_fallback(counters_on(quick(server.options()), {.ledger = [&]() -> Result<std::vector<Spent>> {
                                              ++asked;
                                              return std::vector<Spent>{{kBudget, ledger}};
                                            }}));
  ASSERT_TRUE(admitted(*counters, "a", {{kBudget, 30}, {kRate, 30}}));
  ASSERT_TRUE(admitted(*counters, "b", {{kBudget, 30}, {kRate, 30}}));
  EXPECT_EQ(asked, 1);
  server.kill();
  EXPECT_EQ(code_of(*counters, "c", {{kBudget, 1}}), Code::unavailable);
  EXPECT_FALSE(counters->health());
  EXPECT_TRUE(admitted(*counters, "local", {{kRate, 80}})) << "a limit of its own while Redis is away";
  EXPECT_FALSE(admitted(*counters, "more", {{kRate, 21}})) << "and no more than the limit";
  const std::int64_t ten[] = {10, 10};
  counters->settle("a", ten);  // said while nobody listens
  ledger = 10;                 // which the ledger knows, too
  server.start();              // empty
  wait_until_back(*counters);
  EXPECT_TRUE(counters->sync(seconds(10)));
  EXPECT_EQ(remaining(*counters, kBudget), 90);
  EXPECT_EQ(asked, 2);
  counters->settle("b", ten);  // counted though Redis has forgotten its reservation
  counters->settle("b", ten);
  EXPECT_TRUE(counters->sync(seconds(10)));
  EXPECT_EQ(remaining(*counters, kBudget), 80);
  counters->release("local");
  EXPECT_TRUE(admitted(*counters, "d", {{kBudget, 80}, {kRate, 100}}));
}

TEST(RedisCounters, AFlushedServerSpendsNothingBeforeTheLedgerHasSpoken) {
  RedisServer server;
  bool ledger_works = true;
  auto counters = counters_on(server.options(), {.ledger = [&]() -> Result<std::vector<Spent>> {
                                if (!ledger_works) return Error{Code::io, "The ledger cannot be read."};
                                return std::vector<Spent>{{kBudget, 95}};
                              }});
  EXPECT_EQ(remaining(*counters, kBudget), 5);
  EXPECT_FALSE(admitted(*counters, "a", {{kBudget, 6}}));
  ledger_works = false;
  server.ask({"FLUSHALL"});
  EXPECT_EQ(code_of(*counters, "b", {{kBudget, 1}}), Code::io);
  EXPECT_TRUE(admitted(*counters, "c", {{kRate, 100}}));
  ledger_works = true;
  EXPECT_FALSE(admitted(*counters, "d", {{kBudget, 6}}));
  EXPECT_TRUE(admitted(*counters, "d", {{kBudget, 5}}));
  server.ask({"SCRIPT", "FLUSH"});  // as after a restart from a copy of unknown age
  EXPECT_FALSE(admitted(*counters, "e", {{kBudget, 1}}));
}

TEST(RedisCounters, WhatWasGivenUpDoesNotStayReserved) {
  RedisServer server;
  auto counters = with_fallback(counters_on(quick(server.options())));
  ASSERT_TRUE(admitted(*counters, "a", {{kBudget, 1}, {kRate, 1}}));
  server.stop();
  const auto begin = Clock::now();
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back(
          [&, i] { EXPECT_EQ(code_of(*counters, "slow" + std::to_string(i), {{kBudget, 10}}), Code::unavailable); });
  }
  EXPECT_LT(Clock::now() - begin, seconds(30));
  EXPECT_TRUE(admitted(*counters, "rate", {{kRate, 1}}));
  server.go_on();  // and may now run what it was sent, or not
  wait_until_back(*counters);
  EXPECT_TRUE(counters->sync(seconds(10)));
  EXPECT_EQ(remaining(*counters, kBudget), 99);
}

TEST(RedisCounters, AReservationThatComesAfterItsReleaseIsRefused) {
  auto counters = counters_on(shared_redis().options(), {.prefix = "{" + new_reservation_id() + "}:"});
  counters->release("late");
  EXPECT_TRUE(counters->sync(seconds(10)));
  EXPECT_EQ(code_of(*counters, "late", {{kBudget, 10}}), Code::unavailable);
  EXPECT_EQ(remaining(*counters, kBudget), 100);
}

TEST(RedisCounters, GarbageIsAnErrorAndNothingHangs) {
  int turn = 0;
  const std::string garbage[] = {
      "+OK\r\n",        ":1\r\n", "*1\r\n+ok\r\n", "*6\r\n+ok\r\n:1\r\n:7\r\n:0\r\n:0\r\n+\r\n",
      "-OOM no\r\n",    "_\r\n",  "*0\r\n",        "*8\r\n+ok\r\n:1\r\n:-1\r\n:0\r\n:0\r\n+e\r\n+x\r\n+y\r\n",
      "*1\r\n+lost\r\n"};
  for (const std::string& answer : garbage) {
    FakeRedis fake([&](std::string_view bytes) {
      return bytes.find("HELLO") != bytes.npos ? std::string("%1\r\n+server\r\n+redis\r\n") : answer;
    });
    auto counters = with_fallback(counters_on(quick(fake.options())));
    const auto verdict = counters->reserve("a" + std::to_string(turn++), std::vector<Charge>{{kBudget, 1}});
    ASSERT_FALSE(verdict) << answer;
    EXPECT_EQ(verdict.error().code, Code::unavailable) << answer;
    EXPECT_TRUE(admitted(*counters, "rate", {{kRate, 1}})) << "rates go on";
    const std::int64_t one[] = {1};
    counters->settle("a", one);
    (void)counters->sync(milliseconds(10));
  }
}

TEST(RedisCounters, APartOfAClusterIsToldAsSuch) {
  const Charge charges[] = {{kRate, 1}};
  for (const std::string said : {"-MOVED 3999 127.0.0.1:6381\r\n", "-ASK 3999 127.0.0.1:6381\r\n",
                                 "-CLUSTERDOWN 127.0.0.1:6381 serves no slot\r\n"}) {
    FakeRedis moved([&](std::string_view bytes) {
      return bytes.find("HELLO") != bytes.npos ? std::string("%1\r\n+server\r\n+redis\r\n") : said;
    });
    const auto counters = counters_on(moved.options());
    const auto elsewhere = counters->reserve("a", charges);
    ASSERT_FALSE(elsewhere);
    EXPECT_EQ(elsewhere.error().code, Code::unavailable);
    for (const char* part : {"part of a cluster, which is not supported", "127.0.0.1:6381"})
      EXPECT_NE(elsewhere.error().message.find(part), std::string::npos) << elsewhere.error().message;
    EXPECT_FALSE(counters->health()) << "whoever looks at the server's health is told";
  }
}

TEST(RedisCounters, ABucketOfAnotherCapacityLeaksByIt) {
  TestTime time;
  const auto counters = counters_on(shared_redis().options(), {.prefix = "{bucket}:", .clock = time.clock()});
  for (int turn = 0; turn < 2; ++turn) {  // the second finds the keys of the first gone
    const Limit before = limit_of(LimitKind::token_bucket, "b", 600, std::chrono::minutes(1));
    const Limit after = limit_of(LimitKind::token_bucket, "b", 6000, std::chrono::minutes(1));
    ASSERT_TRUE(admitted(*counters, new_reservation_id(), {{after, 0}}));
    const std::string id = new_reservation_id();
    ASSERT_TRUE(admitted(*counters, id, {{before, 600}}));
    ASSERT_TRUE(admitted(*counters, new_reservation_id(), {{after, 0}}));
    time.pass(seconds(3));  // 300 leak out by the new capacity, 30 by the old
    const std::int64_t used[] = {600};
    counters->settle(id, used);
    ASSERT_TRUE(counters->sync(seconds(10)));
    EXPECT_EQ(remaining(*counters, after), 5700);
    time.pass(hours(1));
  }
}

TEST(RedisCounters, AKeyOfAForeignTypeChangesNothing) {
  RedisServer server;
  auto counters = counters_on(server.options());
  ASSERT_TRUE(admitted(*counters, "a", {{kRate, 1}, {kBudget, 1}}));
  server.ask({"DEL", "{ashlar}:b:budget"});
  server.ask({"LPUSH", "{ashlar}:b:budget", "x"});
  EXPECT_EQ(code_of(*counters, "b", {{kRate, 50}, {kBudget, 1}}), Code::unavailable);
  EXPECT_EQ(remaining(*counters, kRate), 99);
}

TEST(RedisCounters, TheServersOwnClockServes) {
  auto counters = counters_on(shared_redis().options(), {.prefix = "{" + new_reservation_id() + "}:"});
  const Limit tps = limit_of(LimitKind::leaky_bucket, "tps", 10, seconds(2));
  ASSERT_TRUE(admitted(*counters, "a", {{tps, 10}, {money("hour", 10, Calendar::hour), 1}}));
  const auto until = Clock::now() + seconds(60);
  int tries = 0;
  for (; !admitted(*counters, "b" + std::to_string(tries), {{tps, 10}}) && Clock::now() < until;) ++tries;
  EXPECT_GT(tries, 0);
  EXPECT_LT(Clock::now(), until);
}

TEST(RedisCounters, KeysOfRatesGoAwayByThemselves) {
  RedisServer server;
  auto counters = counters_on(server.options());
  ASSERT_TRUE(admitted(
      *counters, "a",
      {{kRate, 1}, {limit_of(LimitKind::token_bucket, "tb", 5), 5}, {limit_of(LimitKind::semaphore, "s", 5), 1}}));
  for (const char* key : {"{ashlar}:w:rate", "{ashlar}:t:tb", "{ashlar}:s:s", "{ashlar}:r:a"})
    EXPECT_GT(server.ask({"PTTL", key}).integer, 0) << key;
  ASSERT_TRUE(admitted(*counters, "m", {{kBudget, 1}}));
  EXPECT_EQ(server.ask({"PTTL", "{ashlar}:r:m"}).integer, -1) << "money waits for whoever settles it";
}

// Two processes, of which one falls silent.
struct Pair {
  TestTime time;
  const std::string mine = std::string(24, 'a'), theirs = std::string(24, 'b');
  const std::string prefix = "{" + new_reservation_id() + "}:";
  std::unique_ptr<Counters> living = make(mine), dead = make(theirs);

  std::unique_ptr<Counters> make(const std::string& owner) {
    return counters_on(shared_redis().options(), {.prefix = prefix, .clock = time.clock(), .owner = owner});
  }
  void tend(Counters& counters) const {
    counters.tend();
    ASSERT_TRUE(counters.sync(seconds(10)));
  }
};

TEST(RedisCounters, TheLivingGiveBackTheMoneyOfTheDeadAndCountWhatTheirJournalsSay) {
  Pair pair;
  ASSERT_TRUE(admitted(*pair.dead, pair.theirs + "1", {{kBudget, 60}, {kRate, 5}}));
  ASSERT_TRUE(admitted(*pair.dead, pair.theirs + "2", {{kBudget, 20}}));
  ASSERT_TRUE(admitted(*pair.living, pair.mine + "1", {{kBudget, 10}}));
  pair.dead = nullptr;  // it says nothing more
  for (int i = 0; i < 11; ++i) {
    pair.tend(*pair.living);
    EXPECT_EQ(remaining(*pair.living, kBudget), 10) << "it may be silent for as long as that: " << 10 * i << " s";
    pair.time.pass(seconds(10));
  }
  pair.time.pass(seconds(20));
  pair.tend(*pair.living);
  EXPECT_EQ(remaining(*pair.living, kBudget), 90) << "its own stays reserved";
  EXPECT_EQ(remaining(*pair.living, kRate), 95) << "rates pass by themselves";
  EXPECT_TRUE(pair.living->unsettled(milliseconds(0)).value_or(std::vector<std::string>{}) ==
              std::vector<std::string>{pair.mine + "1"});
  // Its journal is found after all: one was delivered in part, the other never began.
  const std::int64_t used[] = {7, 5};
  pair.living->settle(pair.theirs + "1", used);
  pair.living->settle(pair.theirs + "1", used);
  pair.living->release(pair.theirs + "2");
  ASSERT_TRUE(pair.living->sync(seconds(10)));
  EXPECT_EQ(remaining(*pair.living, kBudget), 83);
}

TEST(RedisCounters, WhoWasSilentWithRedisIsNotTakenForDead) {
  Pair pair;
  ASSERT_TRUE(admitted(*pair.dead, pair.theirs + "1", {{kBudget, 60}}));
  pair.tend(*pair.dead);
  pair.time.pass(hours(5));  // Redis was away, for both
  pair.tend(*pair.living);
  pair.time.pass(seconds(10));
  pair.tend(*pair.dead);
  for (int i = 0; i < 30; ++i) {
    pair.time.pass(seconds(10));
    pair.tend(*pair.living);
    pair.tend(*pair.dead);
    EXPECT_EQ(remaining(*pair.living, kBudget), 40);
  }
  const std::int64_t used[] = {1};
  pair.dead->settle(pair.theirs + "1", used);
  ASSERT_TRUE(pair.dead->sync(seconds(10)));
  EXPECT_EQ(remaining(*pair.living, kBudget), 99);
}

TEST(RedisCounters, MoreReservationsOfTheDeadThanOneLookTakes) {
  Pair pair;
  const Limit budget = money("many", 10'000);
  for (int i = 0; i < 1500; ++i) {
    ASSERT_TRUE(admitted(*pair.dead, pair.theirs + std::to_string(i), {{budget, 1}}));
    if (i % 2 == 0) ASSERT_TRUE(admitted(*pair.living, pair.mine + std::to_string(i), {{budget, 1}}));
  }
  for (int i = 0; i < 3; ++i) {
    pair.time.pass(seconds(60));
    pair.tend(*pair.living);
  }
  EXPECT_EQ(remaining(*pair.living, budget), 10'000 - 750);
}

TEST(RedisCounters, WhoIsKnownToBeDeadHoldsNothing) {
  Pair pair;
  const Limit budget = money("buried", 100);
  const Limit seats{.key = "seats", .kind = LimitKind::semaphore, .capacity = 2, .period = seconds(30)};
  ASSERT_TRUE(admitted(*pair.dead, pair.theirs + "1", {{budget, 30}, {seats, 1}}));
  ASSERT_TRUE(admitted(*pair.dead, pair.theirs + "2", {{budget, 20}}));
  ASSERT_TRUE(admitted(*pair.living, pair.mine + "1", {{budget, 10}, {seats, 1}}));
  const std::int64_t used[] = {5};
  pair.dead->settle(pair.theirs + "2", used);
  ASSERT_TRUE(pair.dead->sync(seconds(10)));
  pair.living->bury(pair.theirs.substr(0, 24));
  ASSERT_TRUE(pair.living->sync(seconds(10)));
  EXPECT_EQ(remaining(*pair.living, budget), 100 - 5 - 10);
  EXPECT_EQ(remaining(*pair.living, seats), 1);
}

TEST(RedisCounters, WhatADeadOneSettledIsAmended) {
  Pair pair;
  const Limit budget = money("amended", 100);
  const Limit rate{.key = "amended", .kind = LimitKind::sliding_window, .capacity = 100, .period = seconds(60)};
  ASSERT_TRUE(admitted(*pair.dead, pair.theirs + "1", {{budget, 30}, {rate, 30}}));
  const std::int64_t said[] = {20, 20}, true_amounts[] = {5, 5};
  pair.dead->settle(pair.theirs + "1", said);
  ASSERT_TRUE(pair.dead->sync(seconds(10)));
  pair.living->settle(pair.theirs + "1", true_amounts);
  ASSERT_TRUE(pair.living->sync(seconds(10)));
  EXPECT_EQ(remaining(*pair.living, budget), 80) << "settling it twice changes nothing";
  for (int i = 0; i < 2; ++i) pair.living->amend(pair.theirs + "1", true_amounts);
  ASSERT_TRUE(pair.living->sync(seconds(10)));
  EXPECT_EQ(remaining(*pair.living, budget), 95);
  EXPECT_EQ(remaining(*pair.living, rate), 80) << "rates pass by themselves";
  EXPECT_FALSE(pair.living->reserve(pair.theirs + "1", std::vector<Charge>{{budget, 1}})) << "it is used up";
  // One that was not settled: as if it were now.
  ASSERT_TRUE(admitted(*pair.dead, pair.theirs + "2", {{budget, 30}}));
  pair.living->amend(pair.theirs + "2", {true_amounts, 1});
  ASSERT_TRUE(pair.living->sync(seconds(10)));
  EXPECT_EQ(remaining(*pair.living, budget), 90);
}

// A server that is killed and started again while many work: whatever was admitted since it last began is within the
// limit, by what its ledger says.
TEST(RedisCounters, KilledInTheMiddleItStillNeverSpendsTooMuch) {
  RedisServer server;
  std::atomic<std::int64_t> spent = 0;  // the ledger, written before the settling
  auto counters = counters_on(quick(server.options()), {.ledger = [&]() -> Result<std::vector<Spent>> {
                                return std::vector<Spent>{{money("m", 20'000), spent}};
                              }});
  std::atomic<bool> over = false;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; !over; ++i) {
        const std::string id = std::to_string(t) + "-" + std::to_string(i);
        if (!admitted(*counters, id, {{money("m", 20'000), 10}})) continue;
        spent += 10;
        const std::int64_t ten[] = {10};
        counters->settle(id, ten);
      }
    });
  for (int turn = 0; turn < 5; ++turn) {
    const std::int64_t before = spent;
    const auto until = Clock::now() + seconds(10);
    while (spent < std::min<std::int64_t>(before + 500, 19'000) && Clock::now() < until) std::this_thread::yield();
    server.kill();
    server.start();
  }
  const auto until = Clock::now() + seconds(10);
  while (spent < 19'900 && Clock::now() < until) std::this_thread::yield();
  over = true;
  threads.clear();
  // Each of the four may be between Redis and the ledger when Redis dies: that is the bound of what can go unseen.
  EXPECT_LE(spent, 20'000 + 5 * 4 * 10);
  EXPECT_GE(spent, 19'000);
}

}  // namespace
}  // namespace ashlar::store
