#include "gateway/limits/budget_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/limits/limits.h"
#include "gateway/limits/spent.h"
#include "store/databases_for_test.h"
#include "store/usage.h"

namespace ashlar::gateway {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kDollar = 1'000'000'000;

class Budgets : public testing::TestWithParam<store::Dialect> {
 protected:
  void SetUp() override {
    auto opened = store::open_database(place.where());
    ASSERT_TRUE(opened) << opened.error().message;
    database = std::move(*opened);
    budgets = *BudgetStore::open(*database);
  }
  KeptBudget make(KeptBudget wished) {
    auto made = budgets->create(std::move(wished));
    EXPECT_TRUE(made) << made.error().message;
    return made ? *made : KeptBudget{};
  }

  store::PlaceForTest place{GetParam()};
  std::unique_ptr<store::Database> database;
  std::unique_ptr<BudgetStore> budgets;
};

INSTANTIATE_TEST_SUITE_P(Both, Budgets, testing::Values(store::Dialect::sqlite, store::Dialect::postgres),
                         [](const auto& each) { return each.param == store::Dialect::sqlite ? "Sqlite" : "Postgres"; });

TEST_P(Budgets, AreMadeChangedAndForgotten) {
  const auto before = *budgets->generation();
  const auto made = make({.who = "search", .name = "month", .capacity = 5 * kDollar, .alerts = {80, 100}});
  EXPECT_NE(*budgets->generation(), before);
  EXPECT_THAT(made.id, testing::StartsWith("budget-"));
  EXPECT_EQ(budgets->find(made.id)->capacity, 5 * kDollar);
  EXPECT_EQ(budgets->find("month")->alerts, (std::vector<int>{80, 100}));
  EXPECT_EQ(budgets->create({.who = "search", .name = "month", .capacity = 1}).error().code, Code::invalid);
  const auto changed = budgets->change(made.id, [](KeptBudget& budget) -> Status {
    budget.capacity = 7 * kDollar;
    budget.who = "other";
    return {};
  });
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_EQ(changed->who, "search");
  EXPECT_EQ(budgets->list()->at(0).capacity, 7 * kDollar);
  make({.who = "ads", .name = "month", .capacity = 1});
  EXPECT_THAT(budgets->find("month").error().message, HasSubstr("by its id"));
  for (const char* name : {"b", "c", "d"}) make({.who = "search", .name = name, .capacity = 1});
  EXPECT_EQ(budgets->create({.who = "search", .name = "e", .capacity = 1}).error().code, Code::invalid);
  EXPECT_TRUE(budgets->remove(made.id));
  EXPECT_EQ(budgets->remove(made.id).error().code, Code::not_found);
  EXPECT_EQ(budgets->list()->size(), 4u);
}

TEST_P(Budgets, AreRefusedWhereTheyMakeNoSense) {
  for (const KeptBudget& wrong :
       {KeptBudget{.name = "n", .capacity = 1}, KeptBudget{.who = "a\nb", .name = "n", .capacity = 1},
        KeptBudget{.who = "x", .name = "N N", .capacity = 1}, KeptBudget{.who = "x", .name = "n", .capacity = -1},
        KeptBudget{.scope = LimitScope::global, .who = "x", .name = "n", .capacity = 1},
        KeptBudget{.who = "x", .name = "n", .capacity = 1, .alerts = {0}},
        KeptBudget{.who = "x", .name = "n", .capacity = store::kMostAmount + 1}})
    EXPECT_EQ(budgets->create(wrong).error().code, Code::invalid);
}

TEST_P(Budgets, ThatAreSoftRefuseNobodyUntilTheyAreHard) {
  const auto made = make({.who = "search", .name = "month", .capacity = kDollar, .soft = true});
  EXPECT_EQ(budgets->find(made.id)->alerts, std::vector<int>{100}) << "somebody is to be told";
  EXPECT_TRUE(budgets->find(made.id)->soft);
  LimitsConfig config = *read_limits("prices: [{model: m, input: 1000000, output: 1000000}]\n");
  config.rules = {rule_of(*budgets->find(made.id))};
  const auto counters = store::memory_counters();
  const auto limits = *Limits::create(config, *counters, {});
  const auto ask = [&] {
    auto admitted = limits->admit({.subject = {.team = "search"}, .model = "m", .prompt_tokens = 1, .max_tokens = 0});
    if (admitted) admitted->settle({.prompt = 1});
    return admitted.has_value();
  };
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(ask());
  const auto alerts = budgets->change(made.id, [](KeptBudget& budget) -> Status {
    budget.alerts = {100, 400};
    return {};
  });
  ASSERT_TRUE(alerts) << alerts.error().message;
  EXPECT_EQ(alerts->alerts, (std::vector<int>{100, 400}));
  const auto harden = [](KeptBudget& budget) -> Status {
    budget.soft = false;
    return {};
  };
  EXPECT_EQ(budgets->change(made.id, harden).error().code, Code::invalid) << "an alert at 400 percent comes never";
  const auto hard = budgets->change(made.id, [&](KeptBudget& budget) {
    budget.alerts = {80};
    return harden(budget);
  });
  ASSERT_TRUE(hard) << hard.error().message;
  config.rules = {rule_of(*hard)};
  ASSERT_TRUE(limits->apply(config));
  EXPECT_FALSE(ask()) << "what was spent is spent";
  EXPECT_EQ(budgets->create({.who = "x", .name = "n", .capacity = 0, .soft = true}).error().code, Code::invalid);
}

TEST_P(Budgets, StandBesideTheRulesOfTheFile) {
  LimitsConfig config = *read_limits(
      "limits: [{scope: team, who: search, name: month, kind: budget, dollars: 100, window: month}]\n"
      "prices: [{model: m, input: 1000000, output: 1000000}]\n");
  const auto kept = make({.who = "search", .name = "month", .capacity = 3 * kDollar});
  config.rules.push_back(rule_of(kept));
  const auto counters = store::memory_counters();
  const auto limits = *Limits::create(config, *counters, {});
  const auto ask = [&](const std::string& team) {
    return limits->admit({.subject = {.key = "k", .team = team}, .model = "m", .prompt_tokens = 1, .max_tokens = 0});
  };
  for (int i = 0; i < 3; ++i) {
    auto admitted = ask("search");
    ASSERT_TRUE(admitted) << admitted.error().error.message;
    admitted->settle({.prompt = 1});
  }
  const auto refused = ask("search");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, LimitRefusal::Kind::quota);
  EXPECT_THAT(refused.error().error.message, HasSubstr("The budget 'month' of team 'search' is used up"));
  EXPECT_TRUE(ask("ads"));
  // The file's own counts on, apart.
  config.rules.pop_back();
  ASSERT_TRUE(limits->apply(config));
  EXPECT_TRUE(ask("search"));
}

TEST_P(Budgets, WhoSpentOfThemIsKnownFromTheRows) {
  ASSERT_TRUE(store::migrate(*database, std::span(&store::usage_schema(), 1)));
  const auto kept = make({.who = "search", .name = "ever", .capacity = kDollar, .window = store::Calendar::total});
  LimitsConfig config;
  config.rules = {rule_of(kept)};
  sort_rules(config);
  for (const auto& [id, team] : {std::pair("1", "search"), std::pair("2", "search"), std::pair("3", "ads")})
    ASSERT_TRUE(
        database->transact({*store::usage_insert({.id = id, .at_ms = 5, .team = team, .model = "m", .cost_nano = 7})}));
  const auto all = *spenders(config, *database, 1'795'262'400'000);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].who, "team 'search'");
  EXPECT_EQ(all[0].spent.used, 14);
  EXPECT_EQ(all[0].rule->id, kept.id);
}

}  // namespace
}  // namespace ashlar::gateway
