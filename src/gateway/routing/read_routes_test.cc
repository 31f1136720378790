#include "gateway/routing/read_routes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "gateway/routing/hints.h"

namespace ashlar::gateway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ReadRoutes, ARouteThatNobodyCanAnswerIsRefusedWithItsLine) {
  const auto wrong = parse_routes(R"(routes:
  - {name: empty}
  - {name: none, deployments: []}
  - name: chat
    deployments:
      - known
      - {model: misspelt, name: x}
  - {name: trial, deployments: [known], rollout: {to: gone}}
  - {name: named, deployments: [known, {model: known, name: y}], rollout: {to: y}}
)",
                                  "f", [](const std::string& model) { return model == "known"; });
  ASSERT_FALSE(wrong);
  const std::string& why = wrong.error().message;
  EXPECT_THAT(why, HasSubstr("f:2: a route needs 'deployments'"));
  EXPECT_THAT(why, HasSubstr("f:3: a route needs 'deployments'"));
  EXPECT_THAT(why, HasSubstr("f:7: nobody serves a model 'misspelt'"));
  EXPECT_THAT(why, HasSubstr("f:8: nobody serves a model 'gone'"));
  EXPECT_EQ(std::ranges::count(why, '\n'), 3) << why;
}

TEST(ReadRoutes, TakesARouteAsItIsWritten) {
  const auto table = parse_routes(R"(
model: ignored by this section
routes:
  - name: chat
    aliases: [gpt-4o-mini, small]
    strategy: prefix-ring
    sticky: true
    target: {first_token: 500ms, between_tokens: 50ms}
    deployments:
      - fast/qwen
      - {model: free, max_concurrent: 0}
      - {model: local, name: here, weight: 2.5, data_classes: sensitive, input_price: 0.15, output_price: 0.6,
         context: 8192, max_concurrent: 10, label: canary}
    fallbacks: {error: [big, other], context: big}
  - name: auto
    tiers: {low: chat, middle: chat, high: big, high_from: 0.8}
  - {name: big, deployments: [plain, {model: found, max_concurrent: auto}]}
  - {name: other, deployments: [spare]}
)",
                                  "a.yaml");
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->groups.size(), 4u);
  const Group& chat = table->groups[0];
  EXPECT_EQ(chat.name, "chat");
  EXPECT_EQ(chat.strategy, Strategy::prefix_ring);
  EXPECT_TRUE(chat.sticky);
  EXPECT_EQ(chat.first_token.count(), 500);
  for (const Deployment& each : table->deployments) {
    EXPECT_EQ(each.between_tokens.count(), each.group == "chat" ? 50 : 0);
    EXPECT_EQ(each.adaptive, each.model == "fast/qwen" || each.model == "found") << each.model;
    EXPECT_EQ(each.max_concurrent, each.model == "local" ? 10 : 0);
  }
  EXPECT_EQ(chat.fallbacks.size(), 2u);
  EXPECT_THAT(chat.fallbacks.at(Cause::error), ElementsAre("big", "other"));
  EXPECT_THAT(chat.fallbacks.at(Cause::context), ElementsAre("big"));
  ASSERT_TRUE(table->groups[1].tiers);
  EXPECT_EQ(table->groups[1].tiers->high, "big");
  EXPECT_DOUBLE_EQ(table->groups[1].tiers->middle_from, 0.3);
  EXPECT_DOUBLE_EQ(table->groups[1].tiers->high_from, 0.8);
  EXPECT_THAT(table->aliases, ElementsAre(std::pair("gpt-4o-mini", "chat"), std::pair("small", "chat")));

  ASSERT_EQ(table->deployments.size(), 6u);
  EXPECT_EQ(table->deployments[0].name, "chat/fast/qwen");
  EXPECT_EQ(table->deployments[0].model, "fast/qwen");
  EXPECT_EQ(table->deployments[0].group, "chat");
  const Deployment& here = table->deployments[2];
  EXPECT_EQ(here.name, "here");
  EXPECT_DOUBLE_EQ(here.weight, 2.5);
  EXPECT_THAT(here.data_classes, ElementsAre("sensitive"));
  EXPECT_EQ(here.input_nanos, 150);  // $0.15 for a million tokens
  EXPECT_EQ(here.output_nanos, 600);
  EXPECT_EQ(here.context, 8192);
  EXPECT_EQ(here.max_concurrent, 10);
  EXPECT_EQ(here.label, "canary");
}

TEST(ReadRoutes, AFileWithoutRoutesHasNone) {
  EXPECT_TRUE(parse_routes("model: x\n", "a.yaml")->groups.empty());
  EXPECT_TRUE(parse_routes("", "a.yaml")->groups.empty());
}

TEST(ReadRoutes, TellsEveryFaultWithItsLine) {
  const auto table = parse_routes(R"(routes:
  - name: a b
    stratgy: weighted
  - name: c
    strategy: fastest
    deployments:
      - {model: x, weight: -1}
      - [x]
  - name: d
    fallbacks: {eror: [x]}
    tiers: {low: x, middle: y}
)",
                                  "a.yaml");
  ASSERT_FALSE(table);
  const std::string& said = table.error().message;
  EXPECT_THAT(said, HasSubstr("a.yaml:2: a route needs a 'name'"));
  EXPECT_THAT(said, HasSubstr("a.yaml:3: a route has no 'stratgy'; did you mean 'strategy'?"));
  EXPECT_THAT(said, HasSubstr("no strategy is called 'fastest'"));
  EXPECT_THAT(said, HasSubstr("a.yaml:7: 'weight' should be a number"));
  EXPECT_THAT(said, HasSubstr("a.yaml:8: a deployment should be"));
  EXPECT_THAT(said, HasSubstr("a.yaml:10: 'fallbacks' has no 'eror'; did you mean 'error'?"));
  EXPECT_THAT(said, HasSubstr("a.yaml:11: 'tiers' should name three routes"));
}

TEST(ReadRoutes, WhatDoesNotHoldTogetherIsRefusedWithItsLine) {
  const auto wrong = parse_routes(R"(routes:
  - name: twice
    deployments:
      - fast/model
      - fast/model
  - {name: elsewhere, deployments: [{model: y, name: twice/fast/model}]}
  - {name: alone, deployments: [x], rollout: {to: x}}
  - {name: low, tiers: {low: elsewhere, middle: elsewhere, high: elsewhere}}
  - {name: high, tiers: {low: elsewhere, middle: elsewhere, high: low}}
)",
                                  "f");
  ASSERT_FALSE(wrong);
  const std::string& why = wrong.error().message;
  EXPECT_THAT(why, HasSubstr("f:5: two deployments are called 'twice/fast/model'"));
  EXPECT_THAT(why, HasSubstr("f:6: two deployments are called 'twice/fast/model'"));
  EXPECT_THAT(why, HasSubstr("f:7: a rollout needs 'deployments' beside the model on trial"));
  EXPECT_THAT(why, HasSubstr("f:9: a tier leads to 'low', which has tiers itself"));
  EXPECT_EQ(std::ranges::count(why, '\n'), 3) << why;
}

TEST(ReadRoutes, SaysWhereTheFileIsNoYaml) {
  const auto table = parse_routes("routes:\n  - {name: a\n", "a.yaml");
  ASSERT_FALSE(table);
  EXPECT_THAT(table.error().message, HasSubstr("a.yaml:"));
  EXPECT_EQ(read_routes("/nowhere/a.yaml").error().code, Code::not_found);
}

TEST(RouteHints, AreWhatTheSenderSays) {
  engine::Request request;
  request.sender = {.session = "s1", .data_classes = {"sensitive"}, .cache_control = "No-Cache , max-age=60, x=y"};
  const RouteHints hints = hints_of(request);
  EXPECT_EQ(hints.session, "s1");
  EXPECT_THAT(hints.data_classes, ElementsAre("sensitive"));
  EXPECT_TRUE(hints.cache.no_cache);
  EXPECT_FALSE(hints.cache.no_store);
  EXPECT_EQ(hints.cache.max_age, std::chrono::seconds(60));
}

TEST(RouteHints, AskForTheCacheInWordsOfTheHeader) {
  const auto control_of = [](const char* header) {
    engine::Request request;
    request.sender.cache_control = header;
    return hints_of(request).cache;
  };
  for (const char* odd : {"", ",,,", "private"}) {
    const CacheControl control = control_of(odd);
    EXPECT_FALSE(control.max_age) << odd;
    EXPECT_FALSE(control.no_cache || control.no_store || control.wanted) << odd;
  }
  for (const char* unread : {"max-age=", "max-age=-1", "max-age=1x"}) {
    EXPECT_EQ(control_of(unread).max_age, std::chrono::seconds(0)) << unread;
  }
  EXPECT_TRUE(control_of("no-store").no_store);
  EXPECT_TRUE(control_of("no-store, Ashlar-Cache").wanted);
}

}  // namespace
}  // namespace ashlar::gateway
