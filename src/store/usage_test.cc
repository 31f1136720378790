#include "store/usage.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "base/json_full.h"
#include "store/databases_for_test.h"

namespace ashlar::store {
namespace {

class Usage : public testing::TestWithParam<Dialect> {
 protected:
  void SetUp() override {
    auto opened = open_database(place_.where());
    ASSERT_TRUE(opened) << opened.error().message;
    database_ = *std::move(opened);
    const auto made = migrate(*database_, {&usage_schema(), 1});
    ASSERT_TRUE(made) << made.error().message;
  }
  void record(const std::vector<UsageRow>& rows) {
    std::vector<Statement> list;
    for (const UsageRow& each : rows) list.push_back(*usage_insert(each));
    const auto written = database_->transact(std::move(list));
    ASSERT_TRUE(written) << written.error().message;
  }

  PlaceForTest place_{GetParam()};
  std::unique_ptr<Database> database_;
};

INSTANTIATE_TEST_SUITE_P(Both, Usage, testing::Values(Dialect::sqlite, Dialect::postgres),
                         [](const auto& each) { return each.param == Dialect::sqlite ? "Sqlite" : "Postgres"; });

constexpr std::int64_t kNoon = 1'795'262'400'000;  // 2026-11-21T12:00:00Z

UsageRow row(std::string id, std::int64_t at, std::string model, std::string team, std::int64_t cost) {
  return {.id = std::move(id),
          .at_ms = at,
          .tenant = "acme",
          .team = std::move(team),
          .user = "ann",
          .key = "ak-1",
          .model = std::move(model),
          .deployment = "d1",
          .prompt_tokens = 10,
          .cached_tokens = 4,
          .cache_write_tokens = 3,
          .completion_tokens = 5,
          .reasoning_tokens = 2,
          .cost_nano = cost,
          .status = 200,
          .ttft_ms = 90,
          .duration_ms = 400,
          .request_id = "client-1"};
}

TEST_P(Usage, ARequestIsCountedOnceHoweverOftenItIsSent) {
  std::atomic<int> left{200};
  std::promise<void> over;
  for (int i = 0; i < 200; ++i)
    ASSERT_TRUE(
        record_usage(*database_, row("r" + std::to_string(i % 50), kNoon, "m", "t", 7), [&](const Status& done) {
          EXPECT_TRUE(done);
          if (--left == 0) over.set_value();
        }));
  over.get_future().wait();
  const auto sums = sum_usage(*database_, {}, {});
  ASSERT_TRUE(sums) << sums.error().message;
  ASSERT_EQ(sums->size(), 1u);
  EXPECT_EQ(sums->at(0).requests, 50);
  EXPECT_EQ(sums->at(0).cost_nano, 350);
  EXPECT_EQ(sums->at(0).prompt_tokens, 500);
  EXPECT_EQ(sums->at(0).cached_tokens, 200);
  EXPECT_EQ(sums->at(0).cache_write_tokens, 150);
  EXPECT_EQ(sums->at(0).completion_tokens, 250);
  EXPECT_EQ(sums->at(0).reasoning_tokens, 100);
  Statement again = *usage_insert(row("r1", kNoon, "m", "t", 7));
  again.if_unchanged = Error{Code::cancelled, "settled already"};
  EXPECT_EQ(database_->transact({again}).error().code, Code::cancelled);
}

TEST_P(Usage, RowsOfTheFirstVersionStayAsTheyWere) {
  const PlaceForTest place{GetParam()};
  const auto database = *open_database(place.where());
  const Schema first{.room = "usage", .steps = {usage_schema().steps.front()}};
  const auto shown = [&] {
    std::string out;
    EXPECT_TRUE(each_usage(*database, {}, [&](const UsageRow& each) -> Status {
      out += usage_csv(each);
      return {};
    }));
    return out;
  };
  ASSERT_TRUE(migrate(*database, {&first, 1}));
  ASSERT_TRUE(database->transact(
      {{.sql = "INSERT INTO usage_rows VALUES ('b', 2, 'acme', 'red', 'ann', 'ak-1', 'm', 'd', '{\"x\":\"y\"}', 10, 4, "
               "5, 2, 7, 200, NULL, 400), ('a', 2, '', '', '', '', '', '', '{}', 0, 0, 0, 0, 0, 429, 3, 0)",
        .args = {},
        .if_unchanged = {}}}));
  const auto made = migrate(*database, {&usage_schema(), 1});
  ASSERT_TRUE(made) << made.error().message;
  const std::string before =
      "\"a\",1970-01-01T00:00:00.002Z,\"\",\"\",\"\",\"\",\"\",\"\",\"{}\",0,0,0,0,0,429,3,0,0,\"\"\n"
      "\"b\",1970-01-01T00:00:00.002Z,\"acme\",\"red\",\"ann\",\"ak-1\",\"m\",\"d\",\"{\"\"x\"\":\"\"y\"\"}\","
      "10,4,5,2,7,200,,400,0,\"\"\n";
  EXPECT_EQ(shown(), before);
  ASSERT_TRUE(database->transact({*usage_insert({.id = "a", .at_ms = 2, .model = "sent again"})}));
  EXPECT_EQ(shown(), before);
}

// A server of the version before, beside one that has brought the database further.
TEST_P(Usage, AnOlderProgramGoesOnWithItsRows) {
  ASSERT_TRUE(database_->transact(
      {{.sql = "INSERT INTO usage_rows (id, at, tenant, team, user_id, key_id, model, deployment, tags, prompt_tokens, "
               "cached_tokens, completion_tokens, reasoning_tokens, cost_nano, status, ttft_ms, duration_ms) VALUES "
               "('b', 2, '', '', '', '', 'm', '', '{}', 10, 4, 5, 2, 7, 200, NULL, 400)",
        .args = {},
        .if_unchanged = {}}}));
  const auto sums = sum_usage(*database_, {}, {"model"});
  ASSERT_TRUE(sums) << sums.error().message;
  EXPECT_EQ(sums->at(0).cost_nano, 7);
  EXPECT_EQ(sums->at(0).cache_write_tokens, 0);
}

TEST_P(Usage, AnAnswerIsFoundByWhatItsClientCalledIt) {
  UsageRow other = row("b", kNoon, "m", "t", 8);
  other.request_id = "client-2";
  record({row("a", kNoon, "m", "t", 7), other});
  const auto sums = sum_usage(*database_, {.where = {{"request", "client-2"}}}, {"request"});
  ASSERT_TRUE(sums) << sums.error().message;
  ASSERT_EQ(sums->size(), 1u);
  EXPECT_EQ(sums->at(0).by.at(0), "client-2");
  EXPECT_EQ(sums->at(0).cost_nano, 8);
}

TEST_P(Usage, IsSummedByAnyOfItsDimensionsBetweenTwoTimes) {
  UsageRow tagged = row("c", kNoon + 86'400'000, "small", "red", 5);
  tagged.tags = {{"project", "x\"y"}, {"env.1", "prod"}};
  tagged.status = 500;
  tagged.ttft_ms.reset();
  record({row("a", kNoon, "big", "red", 100), row("b", kNoon + 1, "big", "blue", 20), tagged});
  const auto sum = [&](std::vector<std::string> by, UsageFilter filter = {}) {
    std::string text;
    const auto sums = sum_usage(*database_, filter, by);
    EXPECT_TRUE(sums) << sums.error().message;
    for (const UsageSum& each : *sums) {
      for (const std::string& name : each.by) text += name + "/";
      text += std::to_string(each.requests) + ":" + std::to_string(each.cost_nano) + " ";
    }
    return text;
  };
  UsageRow hostile = row("h", kNoon - 86'400'000, std::string("m\0", 2), "\xc3", 0);
  hostile.tags = {{"project", std::string("\0\xfe", 2)}};
  record({hostile});
  EXPECT_EQ(sum({"tag:project"}, {.until_ms = kNoon}), "\uFFFD\uFFFD/1:0 ");
  ASSERT_TRUE(database_->transact({{.sql = "DELETE FROM usage_rows WHERE at < ?", .args = {kNoon}}}));
  EXPECT_EQ(sum({"model"}), "big/2:120 small/1:5 ");
  EXPECT_EQ(sum({"team", "model"}), "red/big/1:100 blue/big/1:20 red/small/1:5 ");
  EXPECT_EQ(sum({"day"}), "2026-11-21/2:120 2026-11-22/1:5 ");
  EXPECT_EQ(sum({"status"}), "200/2:120 500/1:5 ");
  EXPECT_EQ(sum({"tag:project"}), "/2:120 x\"y/1:5 ");
  EXPECT_EQ(sum({"tag:env.1"}), "/2:120 prod/1:5 ");
  EXPECT_EQ(sum({"user"}, {.since_ms = kNoon + 1, .until_ms = kNoon + 86'400'000}), "ann/1:20 ");
  EXPECT_EQ(sum({"key"}, {.where = {{"team", "red"}, {"tag:env.1", "prod"}}}), "ak-1/1:5 ");
  EXPECT_EQ(sum({}, {.since_ms = kNoon + 999'999'999}), "0:0 ");
  EXPECT_EQ(sum_usage(*database_, {}, {"tags; DROP TABLE"}).error().code, Code::invalid);
  EXPECT_EQ(sum_usage(*database_, {}, {"tag:"}).error().code, Code::invalid);
}

TEST_P(Usage, ATagOfAnyNameIsFound) {
  UsageRow one = row("r1", kNoon, "m", "red", 7);
  one.tags = {{"cost centre", "4 711"}};
  record({one});
  const auto sums = sum_usage(*database_, {}, {"tag:cost centre"});
  ASSERT_TRUE(sums) << sums.error().message;
  EXPECT_EQ(sums->front().by.front(), "4 711");
}

TEST_P(Usage, IsSummedBySlotsOfTime) {
  UsageRow failed = row("r4", kNoon + 10, "m", "red", 0);
  failed.prompt_tokens = failed.completion_tokens = failed.cached_tokens = failed.reasoning_tokens = 0;
  record({row("r1", kNoon, "m", "red", 0), row("r2", kNoon + 999, "m", "red", 0),
          row("r3", kNoon + 1000, "m", "red", 0), failed, row("r5", kNoon, "m", "blue", 0)});
  std::string seen;
  const auto slots = usage_in_slots(*database_, {.since_ms = kNoon}, {"team"}, 1000);
  ASSERT_TRUE(slots) << slots.error().message;
  for (const UsageSlot& each : *slots)
    seen += fmt::format("{}+{}: {} of {} ", each.by.front(), each.slot - kNoon / 1000, each.tokens, each.requests);
  EXPECT_EQ(seen, "blue+0: 15 of 1 red+0: 30 of 2 red+1: 15 of 1 ") << "who used nothing was given it back";
}

TEST_P(Usage, EveryRowIsExportedInTheOrderOfTime) {
  std::vector<UsageRow> rows;
  for (int i = 0; i < 4500; ++i) rows.push_back(row("id" + std::to_string(10'000 + i), kNoon + i / 7, "m", "t", i));
  for (std::size_t at = 0; at < rows.size(); at += 1500)
    record({rows.begin() + static_cast<long>(at), rows.begin() + static_cast<long>(at + 1500)});
  std::size_t seen = 0;
  const auto done = each_usage(*database_, {}, [&](const UsageRow& each) -> Status {
    EXPECT_EQ(each.id, rows.at(seen++).id);
    return {};
  });
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(seen, rows.size());
}

TEST(UsageText, IsCsvAndJsonLines) {
  UsageRow one = row("r,1", kNoon, "m\n\"x\"", "", 12);
  one.tags = {{"a", "b\"c"}};
  EXPECT_EQ(usage_csv(one),
            "\"r,1\",2026-11-21T12:00:00.000Z,\"acme\",\"\",\"ann\",\"ak-1\",\"m\n\"\"x\"\"\",\"d1\","
            "\"{\"\"a\"\":\"\"b\\\"\"c\"\"}\",10,4,5,2,12,200,90,400,3,\"client-1\"\n");
  one.ttft_ms.reset();
  const auto json = parse_json(usage_json(one));
  ASSERT_TRUE(json);
  EXPECT_EQ(json->at("model"), "m\n\"x\"");
  EXPECT_EQ(json->at("tags").at("a"), "b\"c");
  EXPECT_TRUE(json->at("ttft_ms").is_null());
  EXPECT_EQ(json->size(), 19u);
  EXPECT_EQ(dollars(1'500'000'000), "1.50");
  EXPECT_EQ(dollars(345), "0.000000345");
  EXPECT_EQ(dollars(-20'000'000), "-0.02");
  EXPECT_EQ(dollars(0), "0.00");
}

TEST(UsageText, ASpreadsheetComputesNothingOfIt) {
  EXPECT_EQ(csv_text("=cmd|' /C calc'!A0"), "\"'=cmd|' /C calc'!A0\"");
  for (const char* const each : {"+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"})
    EXPECT_EQ(csv_text(each), std::string("\"'") + each + "\"");
  EXPECT_EQ(csv_text("a=b"), "\"a=b\"");
  EXPECT_EQ(csv_text(""), "\"\"");
}

TEST(UsageText, StrangeNamesAreMendedAndOnlyNonsenseIsRefused) {
  UsageRow strange = row("a", 1, "m" + std::string(511, 'x') + "\xe6\xb0\xb4", "t", 0);
  strange.tags.assign(40, {"no spaces", "x"});
  for (int i = 0; i < 40; ++i) strange.tags[static_cast<std::size_t>(i)].first += std::to_string(i);
  const auto made = usage_insert(strange);
  ASSERT_TRUE(made);
  EXPECT_EQ(as_text(made->args.at(6)), "m" + std::string(511, 'x'));
  const auto tags = parse_json(as_text(made->args.at(8)));
  ASSERT_TRUE(tags);
  EXPECT_EQ(tags->size(), 32u);
  EXPECT_EQ(tags->at("no_spaces0"), "x");
  for (const UsageRow& bad :
       {row("", 1, "m", "t", 0), row(std::string(513, 'i'), 1, "m", "t", 0), row("a", 1, "m", "t", -1)})
    EXPECT_EQ(usage_insert(bad).error().code, Code::invalid);
}

}  // namespace
}  // namespace ashlar::store
