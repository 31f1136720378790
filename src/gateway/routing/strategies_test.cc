// Each strategy against a plain reference.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "gateway/routing/fakes_for_test.h"
#include "gateway/routing/prompt_text.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using fake::ask;
using fake::House;
using fake::Sink;

// Routes one request and says who got it; it stays under way while the ticket is held.
struct Client {
  explicit Client(House& which) : house(which) {}
  std::string send(engine::Request request, RouteHints hints = {}) {
    sinks.push_back(std::make_unique<Sink>());
    auto ticket = house.router->route(std::move(request), std::move(hints), *sinks.back());
    if (!ticket) return "";
    tickets.push_back(std::move(*ticket));
    const RouteTrace trace = tickets.back()->trace();
    return trace.tries.empty() ? "" : trace.tries.back().deployment;
  }
  House& house;
  std::vector<std::unique_ptr<Sink>> sinks;
  std::vector<std::unique_ptr<RouteTicket>> tickets;
};

TEST(Strategies, WeightedSharesAreExact) {
  House house(3, Strategy::weighted);
  const double weights[] = {5, 3, 2};
  for (std::size_t i = 0; i < 3; ++i) house.table.deployments[i].weight = weights[i];
  house.open();
  Client client(house);
  std::map<std::string, int> count;
  for (int i = 1; i <= 1000; ++i) {
    ++count[client.send(ask())];
    EXPECT_NEAR(count["a"], i * 0.5, 1);
    EXPECT_NEAR(count["b"], i * 0.3, 1);
    EXPECT_NEAR(count["c"], i * 0.2, 1);
  }
}

TEST(Strategies, WeightNothingGetsNothingUntilItIsTheLast) {
  House house(2, Strategy::weighted);
  house.table.deployments[1].weight = 0;
  house.open();
  Client client(house);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(client.send(ask()), "a");
  ASSERT_TRUE(house.router->force("a", Breaker::Mode::forced_open));
  EXPECT_EQ(client.send(ask()), "b");
}

TEST(Strategies, LeastOutstandingFollowsTheTokensThatAreLeft) {
  House house(3);
  house.open();
  Client client(house);
  std::mt19937 random{9};
  std::map<std::string, long> outstanding{{"a", 0}, {"b", 0}, {"c", 0}};
  for (int i = 0; i < 500; ++i) {
    auto request = ask();
    request.stopping.max_tokens = 1 + static_cast<int>(random() % 200);
    const int prompt = 1 + static_cast<int>(random() % 5000), answer = request.stopping.max_tokens;
    const auto least = std::ranges::min_element(outstanding, {}, [](const auto& each) { return each.second; })->second;
    const std::string got = client.send(std::move(request), {.prompt_tokens = prompt});
    EXPECT_EQ(outstanding[got], least);
    outstanding[got] += prompt + answer;
    // Its first tokens come at once for some: then the prompt is done.
    if (random() % 2 == 0) {
      auto& call = house[static_cast<std::size_t>(got[0] - 'a')].last();
      call.start();
      call.text("x");
      outstanding[got] -= prompt + 1;
    }
  }
}

TEST(Strategies, LatencyPrefersTheFastAndSpreadsWhatIsUnderWay) {
  House house(3, Strategy::latency);
  house.options.fleet.latency_half_life = 10s;
  house.open();
  const std::chrono::milliseconds pace[] = {400ms, 100ms, 1000ms};
  for (std::size_t i = 0; i < 3; ++i) {
    Client client(house);
    const std::string got = client.send(ask());
    const auto at = static_cast<std::size_t>(got[0] - 'a');
    const TimePoint before = house.now;
    house.now += pace[at];
    house[at].last().answer("x");
    EXPECT_EQ(house.now - before, pace[at]);
  }
  Client client(house);
  std::map<std::string, int> count;
  for (int i = 0; i < 15; ++i) ++count[client.send(ask())];
  // Shares follow 1/latency: 2.5 : 10 : 1 of 13.5.
  EXPECT_NEAR(count["b"], 11, 1);
  EXPECT_NEAR(count["a"], 3, 1);
  EXPECT_LE(count["c"], 2);
}

TEST(Strategies, LatencyTriesASlowOneAgainWhenItsTimeIsLongAgo) {
  House house(2, Strategy::latency);
  house.open();
  for (int i = 0; i < 2; ++i) {
    Client client(house);
    const std::string got = client.send(ask());
    house.now += got == "a" ? 5s : 50ms;
    house[got == "a" ? 0 : 1].last().answer("x");
  }
  std::set<std::string> got;
  for (int i = 0; i < 200; ++i) {
    Client client(house);
    const std::string name = client.send(ask());
    got.insert(name);
    house.now += 1s;
    if (name == "b") house[1].last().answer("x");
    if (name == "a") break;
  }
  EXPECT_TRUE(got.contains("a"));
}

TEST(Strategies, CheapestCountsBothPrices) {
  House house(2, Strategy::cheapest);
  house.table.deployments[0].input_nanos = 100;
  house.table.deployments[0].output_nanos = 2000;
  house.table.deployments[1].input_nanos = 300;
  house.table.deployments[1].output_nanos = 400;
  house.open();
  Client client(house);
  auto request = ask();
  request.stopping.max_tokens = 100;
  EXPECT_EQ(client.send(request, {.prompt_tokens = 10'000}), "a");  // 1.2 m against 3.04 m
  EXPECT_EQ(client.send(request, {.prompt_tokens = 100}), "b");     // 210 k against 70 k
}

TEST(Strategies, ThePrefixGoesToOneDeploymentUntilThatHasItsShare) {
  House house(4, Strategy::prefix_ring);
  house.open();
  Client client(house);
  std::map<std::string, std::string> home;
  for (int i = 0; i < 200; ++i) {
    const std::string words = std::string(100, static_cast<char>('a' + i % 20)) + std::to_string(i);
    const std::string got = client.send(ask(words));
    const auto known = home.emplace(words.substr(0, 100), got);
    EXPECT_EQ(known.first->second, got) << "the first hundred characters decide";
    client.tickets.clear();
    house.router->turn();
  }
  std::set<std::string> homes;
  for (const auto& [words, name] : home) homes.insert(name);
  EXPECT_EQ(homes.size(), 4U);
  std::map<std::string, int> spread;
  for (int i = 0; i < 40; ++i) ++spread[client.send(ask("the same beginning"))];
  for (const auto& [name, count] : spread) EXPECT_LE(count, std::ceil(1.25 * 40 / 4));
  EXPECT_EQ(client.tickets.back()->trace().choice, "prefix-ring-spilled");
}

TEST(Strategies, TheIndexSendsAPromptWhereMostOfItIsCached) {
  House house(3, Strategy::prefix_index);
  house.open();
  Client client(house);
  const std::vector<std::uint64_t> one = {1, 2, 3, 4}, two = {1, 2, 9};
  const std::string home = client.send(ask(), {.prefix_blocks = one, .prompt_tokens = 256});
  client.tickets.clear();
  EXPECT_EQ(client.send(ask(), {.prefix_blocks = two, .prompt_tokens = 192}), home);
  client.tickets.clear();
}

TEST(Strategies, AnEngineThatTellsWhatItHasIsBelieved) {
  House house(3, Strategy::prefix_index);
  std::vector<std::shared_ptr<fake::Cache>> caches;
  for (const auto& generator : house.generators) {
    caches.push_back(std::make_shared<fake::Cache>());
    generator->cache = caches.back();
  }
  house.open();
  Client client(house);
  const std::vector<std::uint64_t> keys = {1, 2, 3, 4};
  const auto send = [&] {
    const std::string got = client.send(ask(), {.prefix_blocks = keys, .prompt_tokens = 256});
    client.tickets.clear();
    return got;
  };
  const std::string home = send();
  EXPECT_EQ(send(), home) << "it is computing it";
  house.now += 11s;
  const std::string other = home == "b" ? "c" : "b";
  const auto cache_of = [&](const std::string& name) -> fake::Cache& {
    return *caches[static_cast<std::size_t>(name[0] - 'a')];
  };
  cache_of(other).there[2] = 128;
  EXPECT_EQ(send(), other) << "home has lost it, or never got so far; the other has two keys of it";
  house.now += 11s;
  cache_of(home).there[3] = 192;
  EXPECT_EQ(send(), home) << "the longer one";
  house.now += 11s;
  cache_of(home).there.clear();
  EXPECT_EQ(send(), other) << "evicted there";
  house.now += 11s;
  house[static_cast<std::size_t>(other[0] - 'a')].cache = std::make_shared<fake::Cache>();
  std::set<std::string> spread;
  for (int i = 0; i < 3; ++i) {
    spread.insert(send());
    house.now += 11s;
  }
  EXPECT_EQ(spread.size(), 3U) << "its model came anew: nobody has anything";
}

TEST(Strategies, WhatIsCachedForOneTenantIsNothingToAnother) {
  House house(2, Strategy::prefix_index);
  const auto cache = std::make_shared<fake::Cache>();
  house[1].cache = cache;
  house[0].cache = std::make_shared<fake::Cache>();
  house.open();
  Client client(house);
  const std::string words(600, 'w');
  auto request = ask(words);
  const std::uint64_t salt = prefix_salt(request, "");
  for (const std::uint64_t key : engine::prefix_keys(request.prompt, salt)) cache->there[key] = 100;
  EXPECT_EQ(client.send(request), "b");
  EXPECT_EQ(client.tickets.back()->trace().json()["cached_tokens"], 100);
  EXPECT_EQ(house[1].last().request.prefix_salt, salt) << "the engine notes it under what the router asks for";
  client.tickets.clear();
  for (const auto change :
       {+[](engine::Request& r) { r.tenant = "u"; }, +[](engine::Request& r) { r.cache_salt = "s"; }}) {
    auto other = ask(words);
    change(other);
    EXPECT_NE(prefix_salt(other, ""), salt);
    client.send(other);
    EXPECT_EQ(client.tickets.back()->trace().cached, 0);
    client.tickets.clear();
  }
  EXPECT_NE(prefix_salt(request, "adapter"), salt);
  auto tools = ask();
  tools.prompt.input = engine::Chat{.messages = std::make_shared<Json>(Json::array()),
                                    .tools = std::make_shared<Json>(Json::parse(R"([{"type":"function"}])"))};
  auto none = tools;
  std::get<engine::Chat>(none.prompt.input).tools = nullptr;
  EXPECT_NE(prefix_salt(tools, ""), prefix_salt(none, "")) << "they stand before the messages";
  request.prefix_salt = 5;
  EXPECT_EQ(prefix_salt(request, "adapter"), 5U) << "who stands before us has its own";
}

TEST(Strategies, ASessionStaysUntilItsDeploymentIsOut) {
  House house(4);
  house.table.groups[0].sticky = true;
  house.open();
  Client client(house);
  std::map<std::string, std::string> home;
  for (int i = 0; i < 100; ++i) {
    const std::string session = "s" + std::to_string(i % 7);
    const std::string got = client.send(ask(), {.session = session});
    EXPECT_EQ(home.emplace(session, got).first->second, got);
  }
  ASSERT_TRUE(house.router->force(home["s0"], Breaker::Mode::forced_open));
  const std::string moved = client.send(ask(), {.session = "s0"});
  EXPECT_NE(moved, home["s0"]);
  ASSERT_TRUE(house.router->force(home["s0"], Breaker::Mode::automatic));
  EXPECT_EQ(client.send(ask(), {.session = "s0"}), moved) << "it does not move back";
}

TEST(Strategies, HardQuestionsGoToTheGroupOfTheirTier) {
  House house(0);
  house.table.groups = {{.name = "auto", .tiers = Tiers{.low = "lite", .middle = "plus", .high = "max"}},
                        {.name = "lite"},
                        {.name = "plus"},
                        {.name = "max"}};
  for (const char* name : {"lite", "plus", "max"}) house.add(name, name);
  house.open();
  Client client(house);
  EXPECT_EQ(client.send(ask("hi there", "auto")), "lite");
  EXPECT_EQ(client.tickets.back()->trace().tier, "low");
  EXPECT_EQ(client.send(ask("Compare TCP and UDP, and explain why a protocol for video would avoid the former. Draft a "
                            "summary of at most 100 words for beginners.",
                            "auto")),
            "plus");
  EXPECT_EQ(client.send(
                ask("Design a distributed database. First, prove that its consensus protocol is safe; then analyze "
                    "the latency under partitions, compare three algorithms and justify the choice. It must survive "
                    "the loss of a region. Finally implement the core in Rust with tests, and evaluate the trade-offs "
                    "step by step: 1. throughput 2. complexity of recovery.",
                    "auto")),
            "max");
  const auto trace = client.tickets.back()->trace().json();
  EXPECT_GE(trace["complexity"]["score"], 0.7);
  EXPECT_GT(trace["complexity"]["parts"].size(), 3U);
}

TEST(Strategies, AFixedNumberOfPlacesIsKeptAndTheUrgentHaveSomeLeft) {
  House house(1);
  house.table.deployments[0].max_concurrent = 10;
  house.options.shedding.reserve = 0.2;
  house.options.shedding.max_wait = 5s;
  house.open();
  Client client(house);
  const auto send_urgent = [&] {
    auto urgent = ask();
    urgent.priority = -1;
    client.send(std::move(urgent));
  };
  send_urgent();
  for (int i = 0; i < 12; ++i) client.send(ask());
  EXPECT_EQ(house[0].started, 8);
  for (int i = 0; i < 3; ++i) send_urgent();
  EXPECT_EQ(house[0].started, 10);
  EXPECT_EQ(client.tickets.size(), 16U) << "the others wait";
  for (int i = 0; i < 3; ++i) house[0].calls[static_cast<std::size_t>(i)]->answer("x");
  house.router->turn();
  EXPECT_EQ(house[0].started, 11);
  EXPECT_EQ(house[0].last().request.priority, -1) << "the urgent one goes first; the rest stays reserved";
  house.pass(5100ms);
  int told = 0;
  for (const auto& sink : client.sinks) told += sink->error ? 1 : 0;
  EXPECT_EQ(told, 5) << "no place became free in time";
  EXPECT_EQ(
      std::ranges::count_if(client.sinks, [](const auto& each) { return each->dropped == engine::Dropped::expired; }),
      5);
}

TEST(Strategies, NoPlaceIsKeptWhereNobodyIsUrgent) {
  House house(1);
  house.table.deployments[0].max_concurrent = 10;
  house.options.shedding.reserve = 0.2;
  house.open();
  Client client(house);
  for (int i = 0; i < 12; ++i) client.send(ask());
  EXPECT_EQ(house[0].started, 10);
}

TEST(Strategies, WhoWouldBeTooLateForTheTargetIsToldSo) {
  House house(1);
  house.table.groups[0].first_token = 1s;
  house.table.deployments[0].max_concurrent = 1;
  house.open();
  Client client(house);
  for (int i = 0; i < 3; ++i) client.send(ask());
  EXPECT_EQ(house[0].started, 1);
  house.pass(900ms);
  EXPECT_FALSE(client.sinks[1]->error);
  house.pass(200ms);
  EXPECT_TRUE(client.sinks[1]->error) << "and not after the ten seconds that others may wait";
}

TEST(PromptText, ReadsWhatThereIsAndNothingElse) {
  auto messages = std::make_shared<Json>(Json::parse(
      R"([{"role":"system","content":"be kind"},7,{"role":3},{"role":"user"},{"role":"user","content":"你好世界 abc"},
          {"role":"assistant","content":null},{"role":"user","content":[{"type":"image"},{"type":"text","text":"last"},4]}])"));
  engine::Prompt prompt{.input = engine::Chat{.messages = messages}};
  EXPECT_EQ(first_words(prompt, 3), "你好世");
  EXPECT_EQ(first_words(prompt, 100), "你好世界 abc");
  EXPECT_EQ(question_of(prompt, 100), "last");
  EXPECT_EQ(engine::text_of(prompt, 10).size(), 10U);
  EXPECT_GT(estimated_tokens(prompt), 5);
  prompt.input = std::vector<std::int32_t>(77);
  EXPECT_EQ(estimated_tokens(prompt), 77);
  prompt.input = engine::Chat{};
  EXPECT_EQ(estimated_tokens(prompt), 0);
  EXPECT_EQ(first_words(prompt, 3), "");
}

}  // namespace
}  // namespace ashlar::gateway
