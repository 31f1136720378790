#include "gateway/routing/response_cache.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "gateway/routing/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

using namespace std::chrono_literals;
using fake::ask;
using fake::House;
using fake::Sink;

engine::Request greedy(std::string words = "hello") {
  auto request = ask(std::move(words));
  request.sampling.temperature = 0;
  return request;
}

struct Cached : House {
  Cached() : House(1) {
    options.cache.most_bytes = 1 << 20;
    options.cache.ttl = 60s;
    options.cache.stale_for = 3600s;
    generators[0]->on_start = [this](auto& call) {
      if (answers) call.answer("answer " + std::to_string(house_answers++));
    };
  }
  // What a request got and how.
  std::pair<std::string, std::string> get(engine::Request request, RouteHints hints = {}) {
    Sink sink;
    auto ticket = router->route(std::move(request), std::move(hints), sink);
    if (!ticket) return {"", "refused"};
    router->turn();
    return {sink.words, (*ticket)->trace().cache};
  }
  bool answers = true;
  int house_answers = 0;
};

TEST(ResponseCache, EverythingThatDecidesTheAnswerIsInTheKey) {
  const engine::Request base = ask("x");
  const std::vector<std::function<void(engine::Request&)>> changes = {
      [](auto& r) { r.tenant = "other"; },
      [](auto& r) { r.cache_salt = "s"; },
      [](auto& r) { r.model = "other"; },
      [](auto& r) { r.prompt.input = std::string("y"); },
      [](auto& r) { r.prompt.input = std::vector<std::int32_t>{'x'}; },
      [](auto& r) { r.prompt.input = engine::Chat{}; },
      [](auto& r) { r.prompt.input = engine::Chat{.messages = std::make_shared<Json>(Json::array())}; },
      [](auto& r) { r.prompt.input = engine::Chat{.tools = std::make_shared<Json>(Json::array())}; },
      [](auto& r) { r.prompt.input = engine::Chat{.chat_template = "t"}; },
      [](auto& r) { r.prompt.input = engine::Chat{.continue_final_message = true}; },
      [](auto& r) { r.prompt.add_special_tokens = false; },
      [](auto& r) { r.n = 2; },
      [](auto& r) { r.sampling.temperature = 0.5F; },
      [](auto& r) { r.sampling.top_k = 5; },
      [](auto& r) { r.sampling.top_p = 0.5F; },
      [](auto& r) { r.sampling.min_p = 0.5F; },
      [](auto& r) { r.sampling.typical_p = 0.5F; },
      [](auto& r) { r.sampling.repetition_penalty = 2; },
      [](auto& r) { r.sampling.presence_penalty = 1; },
      [](auto& r) { r.sampling.frequency_penalty = 1; },
      [](auto& r) { r.sampling.logit_bias = {{1, 2.F}}; },
      [](auto& r) { r.sampling.allowed_token_ids = {1}; },
      [](auto& r) { r.sampling.seed = 0; },
      [](auto& r) { r.sampling.seed = 1; },
      [](auto& r) { r.stopping.max_tokens = 17; },
      [](auto& r) { r.stopping.min_tokens = 1; },
      [](auto& r) { r.stopping.stop = {"a", "b"}; },
      [](auto& r) { r.stopping.stop = {"ab"}; },
      [](auto& r) { r.stopping.stop_token_ids = {1}; },
      [](auto& r) { r.stopping.ignore_eos = true; },
      [](auto& r) { r.stopping.include_stop_in_output = true; },
      [](auto& r) { r.logprobs = 1; },
      [](auto& r) { r.prompt_logprobs = 1; },
      [](auto& r) { r.skip_special_tokens = false; },
      [](auto& r) { r.echo = true; },
  };
  std::set<std::string> keys = {response_key(base, "g", {})};
  for (const auto& change : changes) {
    engine::Request request = base;
    change(request);
    EXPECT_TRUE(keys.insert(response_key(request, "g", {})).second);
  }
  EXPECT_TRUE(keys.insert(response_key(base, "h", {})).second);
  EXPECT_TRUE(keys.insert(response_key(base, "g", {.data_classes = {"a", "b"}})).second);
  EXPECT_TRUE(keys.insert(response_key(base, "g", {.adapter = "a"})).second);
  engine::Request same = base;
  same.id = "other";
  same.priority = 5;
  same.speculating.most = 3;
  EXPECT_TRUE(keys.contains(response_key(same, "g", {.session = "s"})));
  const auto with_body = [&](const char* body) {
    engine::Request request = base;
    request.body = std::make_shared<const Json>(*parse_json(body, {}));
    return response_key(request, "g", {});
  };
  EXPECT_TRUE(keys.insert(with_body(R"({"messages": []})")).second);
  EXPECT_TRUE(keys.insert(with_body(R"({"messages": [], "response_format": {"type": "json_object"}})")).second);
  EXPECT_TRUE(keys.contains(with_body(
      R"({"messages": [], "stream": true, "stream_options": {"include_usage": true}, "user": "u", "priority": 3})")))
      << "a stream of it is the same answer";
}

TEST(ResponseCache, ReadsCacheControl) {
  EXPECT_TRUE(read_cache_control("No-Cache").no_cache);
  EXPECT_TRUE(read_cache_control("max-age=5 , no-store").no_store);
  EXPECT_EQ(read_cache_control("max-age=5 , no-store").max_age, 5s);
  EXPECT_EQ(read_cache_control("max-age=\"7\"").max_age, 7s);
  EXPECT_EQ(read_cache_control("max-age=99999999999999999999").max_age, std::chrono::seconds{UINT32_MAX});
  for (const char* bad : {"max-age=", "max-age=-1", "max-age=1x", "max-age=\""})
    EXPECT_EQ(read_cache_control(bad).max_age, 0s) << bad;
  for (const char* other : {"", ",", " , ,", "max-age", "private=\"x", "=", "no-cachex"}) {
    const CacheControl control = read_cache_control(other);
    EXPECT_FALSE(control.no_cache || control.no_store || control.max_age) << other;
  }
}

TEST(ResponseCache, RepeatsTheSameEventsAndCounts) {
  Cached house;
  auto& router = house.open();
  Sink first, second;
  auto one = router.route(greedy(), {}, first);
  auto two = router.route(greedy(), {}, second);
  EXPECT_TRUE(second.events.empty()) << "not inside start()";
  router.turn();
  ASSERT_EQ(first.events.size(), second.events.size());
  for (std::size_t i = 0; i < first.events.size(); ++i) EXPECT_EQ(first.events[i].index(), second.events[i].index());
  EXPECT_EQ(second.words, "answer 0");
  EXPECT_EQ(house[0].started, 1);
  EXPECT_EQ((*two)->trace().cache, "hit");
  EXPECT_TRUE((*two)->trace().answered_by().empty());
  EXPECT_FALSE(std::get<engine::Finished>(first.events.back()).usage.kept);
  EXPECT_TRUE(std::get<engine::Finished>(second.events.back()).usage.kept) << "nobody computed it, nobody pays";
  EXPECT_EQ(router.cache_counts().hits, 1U);
  EXPECT_EQ(router.cache_counts().misses, 1U);
  ASSERT_EQ(house.traces.size(), 2U);
  EXPECT_EQ(house.traces[1].cache, "hit");
}

TEST(ResponseCache, OnlyWhatCanBeRepeatedIsKept) {
  Cached house;
  house.open();
  EXPECT_EQ(house.get(ask()).first, "answer 0");
  EXPECT_EQ(house.get(ask()).first, "answer 1");
  auto seeded = ask();
  seeded.sampling.seed = 4;
  EXPECT_EQ(house.get(seeded).first, "answer 2");
  EXPECT_EQ(house.get(seeded).second, "hit");
  EXPECT_EQ(house.get(ask("w"), {.cache = {.wanted = true}}).first, "answer 3");
  EXPECT_EQ(house.get(ask("w"), {.cache = {.wanted = true}}).first, "answer 3");
}

TEST(ResponseCache, NeverCrossesTenants) {
  Cached house;
  house.open();
  auto theirs = greedy();
  theirs.tenant = "u";
  EXPECT_EQ(house.get(greedy()).first, "answer 0");
  EXPECT_EQ(house.get(theirs).first, "answer 1");
  EXPECT_EQ(house.get(greedy()).first, "answer 0");
}

TEST(ResponseCache, DoesAsCacheControlSays) {
  Cached house;
  house.open();
  EXPECT_EQ(house.get(greedy(), {.cache = {.no_store = true}}).first, "answer 0");
  EXPECT_EQ(house.get(greedy()).first, "answer 1");
  EXPECT_EQ(house.get(greedy(), {.cache = {.no_cache = true}}).first, "answer 2");
  EXPECT_EQ(house.get(greedy()).first, "answer 2") << "the fresh one was kept";
  house.now += 10s;
  EXPECT_EQ(house.get(greedy(), {.cache = {.max_age = 20s}}).first, "answer 2");
  EXPECT_EQ(house.get(greedy(), {.cache = {.max_age = 9s}}).first, "answer 3");
  house.now += 61s;
  EXPECT_EQ(house.get(greedy()).first, "answer 4") << "beyond its time";
}

TEST(ResponseCache, AnswersWhatIsStaleOnlyWhileEverybodyIsOut) {
  Cached house;
  auto& router = house.open();
  EXPECT_EQ(house.get(greedy()).first, "answer 0");
  house.now += 600s;
  ASSERT_TRUE(router.force("a", Breaker::Mode::forced_open));
  EXPECT_EQ(house.get(greedy()), (std::pair<std::string, std::string>{"answer 0", "stale"}));
  EXPECT_EQ(house.get(greedy(), {.cache = {.no_cache = true}}).second, "refused");
  EXPECT_EQ(house.get(greedy("another")).second, "refused");
  ASSERT_TRUE(router.force("a", Breaker::Mode::automatic));
  EXPECT_EQ(house.get(greedy()).second, "miss");
}

TEST(ResponseCache, EqualRequestsInTheAirAreComputedOnce) {
  Cached house;
  house.answers = false;
  auto& router = house.open();
  Sink sinks[3];
  std::vector<std::unique_ptr<RouteTicket>> tickets;
  tickets.push_back(std::move(*router.route(greedy(), {}, sinks[0])));
  house[0].last().start();
  house[0].last().text("one ");
  tickets.push_back(std::move(*router.route(greedy(), {}, sinks[1])));
  EXPECT_EQ(tickets[1]->trace().cache, "joined");
  router.turn();
  EXPECT_EQ(sinks[1].words, "one ");
  // Who asked first leaves: the others still get their answer.
  tickets[0].reset();
  router.turn();
  EXPECT_EQ(house[0].alive(), 1);
  tickets.push_back(std::move(*router.route(greedy(), {}, sinks[2])));
  house[0].last().text("two");
  house[0].last().finish();
  EXPECT_EQ(house[0].started, 1);
  EXPECT_EQ(sinks[0].words, "one ");
  EXPECT_EQ(sinks[1].words, "one two");
  EXPECT_EQ(sinks[2].words, "one two");
  EXPECT_EQ(sinks[2].over, 1);
  EXPECT_EQ(router.cache_counts().joined, 2U);
  const auto kept = [](const Sink& sink) { return std::get<engine::Finished>(sink.events.back()).usage.kept; };
  EXPECT_FALSE(kept(sinks[1])) << "the first who has it whole pays for it";
  EXPECT_TRUE(kept(sinks[2])) << "as one whom the cache answers";
  tickets.clear();
  EXPECT_EQ(house[0].alive(), 0);
}

TEST(ResponseCache, WhoAskedFirstPaysForAllWhoJoined) {
  Cached house;
  house.answers = false;
  auto& router = house.open();
  Sink first, second;
  auto one = router.route(greedy(), {}, first), two = router.route(greedy(), {}, second);
  house[0].last().answer("one");
  router.turn();
  EXPECT_FALSE(std::get<engine::Finished>(first.events.back()).usage.kept);
  EXPECT_TRUE(std::get<engine::Finished>(second.events.back()).usage.kept);
}

// Of a greedy request that asks for its way, what its head would say.
struct Explained {
  explicit Explained(engine::Request request = greedy()) : asked(std::move(request)) {
    asked.sender.explain = true;
    asked.notes = notes = std::make_shared<engine::Notes>();
  }
  std::string way() const { return notes->empty() ? "" : notes->back().second; }
  engine::Request asked;
  std::shared_ptr<engine::Notes> notes;
};

TEST(ResponseCache, WhoJoinsHasItsWayExplained) {
  Cached house;
  house.answers = false;
  auto& router = house.open();
  Explained early, late, silent;
  silent.asked.sender.explain = false;
  const std::string id = late.asked.id;
  Sink first, second, third, fourth;
  auto one = router.route(greedy(), {}, first), two = router.route(early.asked, {}, second);
  EXPECT_EQ(early.way(), "") << "nobody answers yet";
  house[0].last().start();
  house[0].last().text("one ");
  EXPECT_EQ(early.way(), "group=g strategy=least-outstanding cache=joined choice=least-outstanding tries=a:running");
  auto three = router.route(late.asked, {}, third), four = router.route(silent.asked, {}, fourth);
  router.turn();
  EXPECT_EQ(third.words, "one ");
  EXPECT_EQ(late.way(), early.way()) << "who comes to an answer that runs is told before its first event";
  house[0].last().text("two");
  house[0].last().finish();
  for (const Explained* each : {&early, &late}) EXPECT_EQ(each->notes->size(), 1U) << "once";
  EXPECT_TRUE(silent.notes->empty());
  EXPECT_EQ(house[0].started, 1);
  ASSERT_EQ(house.traces.size(), 4U) << "each is logged";
  EXPECT_EQ(house.traces[0].cache, "miss");
  EXPECT_EQ(house.traces[2].cache, "joined");
  EXPECT_EQ(house.traces[2].id, id);
  EXPECT_EQ(house.traces[2].answered_by(), "a");
}

TEST(ResponseCache, WhoJoinsWhatFailsIsToldTheWayItWent) {
  Cached house;
  house.answers = false;
  auto& router = house.open();
  Explained joined;
  Sink first, second;
  auto one = router.route(greedy(), {}, first), two = router.route(joined.asked, {}, second);
  house[0].last().fail(Code::invalid);
  router.turn();
  EXPECT_TRUE(second.error);
  EXPECT_EQ(joined.way(),
            "group=g strategy=least-outstanding cache=joined choice=least-outstanding tries=a:failed/invalid");
}

TEST(ResponseCache, WhenAllLeaveTheWorkStopsAndAFailureIsToldToAll) {
  Cached house;
  house.answers = false;
  auto& router = house.open();
  Sink first, second;
  {
    auto one = router.route(greedy(), {}, first), two = router.route(greedy(), {}, second);
  }
  EXPECT_EQ(house[0].alive(), 0);
  auto one = router.route(greedy(), {}, first), two = router.route(greedy(), {}, second);
  EXPECT_EQ(house[0].started, 2) << "nobody joins what was cancelled";
  router.turn();
  house[0].last().fail(Code::io);
  router.turn();
  EXPECT_TRUE(first.error);
  EXPECT_TRUE(second.error);
  EXPECT_EQ(router.cache_counts().stored, 0U);
}

TEST(ResponseCache, IsBoundedInBytesAndForgetsWhatWasUsedLongestAgo) {
  ResponseCache cache({.most_bytes = 20'000, .most_entry_bytes = 5'000});
  const auto answer = [](std::size_t bytes) {
    return std::make_shared<const std::vector<engine::Event>>(
        std::vector<engine::Event>{engine::Text{.text = std::string(bytes, 'x')}});
  };
  const TimePoint now{1000s};
  cache.store("big", answer(6'000), now);
  EXPECT_EQ(cache.counts().entries, 0U);
  for (int i = 0; i < 100; ++i) {
    cache.store(std::to_string(i), answer(2'000), now);
    EXPECT_TRUE(cache.find("0", {}, false, now).answer) << "it is used all the time";
    EXPECT_LE(cache.counts().bytes, 20'000U);
  }
  EXPECT_FALSE(cache.find("1", {}, false, now).answer);
  EXPECT_TRUE(cache.find("99", {}, false, now).answer);
  EXPECT_GT(cache.counts().evicted, 80U);
  cache.store("0", answer(10), now);
  EXPECT_LE(cache.counts().bytes, 20'000U);
}

}  // namespace
}  // namespace ashlar::gateway
