#include "gateway/events/kept_events.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/json_full.h"
#include "store/databases_for_test.h"

namespace ashlar::gateway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

enum class Where { memory, sqlite, postgres };

class Events : public testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (GetParam() == Where::memory) return;
    const auto dialect = GetParam() == Where::sqlite ? store::Dialect::sqlite : store::Dialect::postgres;
    place = std::make_unique<store::PlaceForTest>(dialect);
    auto opened = store::open_database(place->where());
    ASSERT_TRUE(opened) << opened.error().message;
    database = std::move(*opened);
  }
  void open(KeptEventsOptions options = {}) {
    options.now_ms = [this] { return now.load(); };
    auto opened = KeptEvents::open(database.get(), std::move(options));
    ASSERT_TRUE(opened) << opened.error().message;
    log = std::move(*opened);
  }
  std::vector<std::string> kinds(const EventFilter& filter = {}) {
    log->sync();
    const auto page = log->list(filter);
    EXPECT_TRUE(page) << page.error().message;
    std::vector<std::string> out;
    for (const KeptEvent& each : page->events) out.push_back(each.event.kind);
    return out;
  }

  std::unique_ptr<store::PlaceForTest> place;
  std::unique_ptr<store::Database> database;
  std::atomic<std::int64_t> now = 1'795'262'400'000;  // 2026-11-21T12:00:00Z
  std::unique_ptr<KeptEvents> log;
};

std::string name_of(const testing::TestParamInfo<Where>& each) {
  constexpr const char* kNames[] = {"Memory", "Sqlite", "Postgres"};
  return kNames[static_cast<int>(each.param)];
}
INSTANTIATE_TEST_SUITE_P(All, Events, testing::Values(Where::memory, Where::sqlite, Where::postgres), name_of);

TEST_P(Events, ComeBackAsTheyWereTheNewestFirst) {
  open();
  log->write({.kind = "key.made",
              .subject = "key_1",
              .severity = Severity::warning,
              .message = "made it",
              .actor = "key_boss",
              .details = {{"roles", {"app"}}}});
  now += 1500;
  log->write({.kind = "breaker.opened", .subject = "a"});
  EXPECT_THAT(kinds(), ElementsAre("breaker.opened", "key.made"));
  const Json first = json_of(log->list({})->events.at(1));
  EXPECT_EQ(first["at"], "2026-11-21T12:00:00.000Z");
  EXPECT_EQ(first["severity"], "warning");
  EXPECT_EQ(first["subject"], "key_1");
  EXPECT_EQ(first["message"], "made it");
  EXPECT_EQ(first["actor"], "key_boss");
  EXPECT_EQ(first["details"]["roles"][0], "app");
  EXPECT_LT(first["id"], json_of(log->list({})->events.at(0))["id"]);
}

TEST_P(Events, AreFound) {
  open();
  for (const char* kind : {"breaker.opened", "breaker.closed", "key.made", "break_fast", "Breaker.Big"}) {
    log->write({.kind = kind, .subject = std::string(kind).substr(0, 3), .at_ms = now});
    now += 1000;
  }
  log->write({.kind = "late", .severity = Severity::error, .at_ms = now});
  EXPECT_THAT(kinds({.kind = "breaker"}), ElementsAre("breaker.closed", "breaker.opened"));
  EXPECT_THAT(kinds({.kind = "break_"}), ElementsAre("break_fast"));
  EXPECT_THAT(kinds({.kind = "%"}), ElementsAre());
  EXPECT_THAT(kinds({.subject = "key"}), ElementsAre("key.made"));
  EXPECT_THAT(kinds({.least = Severity::warning}), ElementsAre("late"));
  EXPECT_THAT(kinds({.since_ms = now - 2000, .until_ms = now}), ElementsAre("Breaker.Big", "break_fast"));
  EXPECT_THAT(kinds({.since_ms = now, .kind = "b"}), ElementsAre());
  for (const EventFilter& wrong : {EventFilter{.limit = 0}, EventFilter{.limit = 1001}, EventFilter{.kind = "\xff"},
                                   EventFilter{.subject = std::string("a\0b", 3)}})
    EXPECT_EQ(log->list(wrong).error().code, Code::invalid);
}

TEST_P(Events, ComePageByPageAndSinceAnId) {
  open();
  for (int i = 0; i < 10; ++i) log->write({.kind = fmt::format("k{}", i)});
  log->sync();
  std::vector<std::string> all;
  EventFilter filter{.limit = 3};
  bool more = true;
  while (more) {
    const auto page = *log->list(filter);
    for (const KeptEvent& each : page.events) all.push_back(each.event.kind);
    filter.before = page.events.back().id;
    more = page.more;
  }
  EXPECT_THAT(all, ElementsAre("k9", "k8", "k7", "k6", "k5", "k4", "k3", "k2", "k1", "k0"));
  const auto seventh = log->list({})->events.at(2).id;
  EXPECT_THAT(kinds({.after = seventh}), ElementsAre("k9", "k8"));
}

TEST_P(Events, NobodyWritesLinesOfHisOwn) {
  open();
  log->write({.kind = "a\nb",
              .subject = "x\x1b[31m\xff",
              .message = std::string("one\r\ntwo\xe2\x80\xae\0three", 18) + std::string(10'000, 'm'),
              .actor = "k\x7f",
              .details = {{"big", std::string(100'000, 'd')}}});
  log->sync();
  const OperatorEvent event = log->list({})->events.at(0).event;
  EXPECT_EQ(event.kind, "a b");
  EXPECT_EQ(event.subject, "x [31m\xef\xbf\xbd");
  EXPECT_EQ(event.actor, "k ");
  EXPECT_THAT(event.message, HasSubstr("one  two"));
  EXPECT_THAT(event.message, Not(HasSubstr("\xe2\x80\xae")));
  EXPECT_LE(event.message.size(), 2'000u);
  EXPECT_TRUE(event.details.contains("cut"));
}

TEST_P(Events, ManyMayWriteAtOnce) {
  open();
  {
    std::vector<std::jthread> writers;
    for (int i = 0; i < 4; ++i)
      writers.emplace_back([this] {
        for (int k = 0; k < 100; ++k) log->write({.kind = "k"});
      });
  }
  EXPECT_EQ(kinds({.limit = 1000}).size(), 400u);
}

TEST(KeptEvents, MemoryHoldsTheLastThousand) {
  auto log = *KeptEvents::open(nullptr);
  for (int i = 0; i < 1'100; ++i) log->write({.kind = fmt::format("k{}", i)});
  const auto page = *log->list({.limit = 1000});
  EXPECT_EQ(page.events.size(), 1000u);
  EXPECT_FALSE(page.more);
  EXPECT_EQ(page.events.back().event.kind, "k100");
}

TEST_P(Events, OldOnesGo) {
  if (GetParam() == Where::memory) return;
  open({.most_rows = 50});
  log->write({.kind = "ancient", .at_ms = now - 100LL * 24 * 3'600'000});
  log->sync();
  EXPECT_EQ(kinds({.kind = "ancient"}).size(), 1u);
  for (int i = 0; i < 1'200; ++i) {
    log->write({.kind = "k"});
    if (i % 500 == 0) log->sync();
  }
  EXPECT_EQ(kinds({.kind = "ancient"}).size(), 0u);
  EXPECT_LE(kinds({.limit = 1000}).size(), 250u + 1) << "50, and what came since they were last counted";
  log.reset();
  open({.most_rows = 50});
  EXPECT_EQ(kinds({.limit = 1000}).size(), 50u) << "also at the next start";
}

TEST_P(Events, WhatIsTooMuchIsLeftOutAndTheWriterNeverWaits) {
  if (GetParam() == Where::memory) return;
  open({.most_waiting = 0});
  log->write({.kind = "k"});
  EXPECT_THAT(kinds(), ElementsAre());
}

}  // namespace
}  // namespace ashlar::gateway
