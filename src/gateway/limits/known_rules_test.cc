#include "gateway/limits/known_rules.h"

#include <gtest/gtest.h>

namespace ashlar::gateway {
namespace {

std::shared_ptr<const LimitsConfig> config_of(std::int64_t capacity) {
  LimitsConfig config;
  config.rules = {
      {.scope = LimitScope::key, .name = "tpm", .capacity = capacity, .period = std::chrono::minutes(1)},
      {.scope = LimitScope::tag, .who = "tier=free", .name = "free", .capacity = 5, .period = std::chrono::minutes(1)},
      {.scope = LimitScope::model, .name = "day", .capacity = 9, .period = std::chrono::hours(24)}};
  sort_rules(config);
  return std::make_shared<const LimitsConfig>(std::move(config));
}

std::vector<std::string> keys(const std::vector<Applied>& rules) {
  std::vector<std::string> out;
  for (const Applied& each : rules) out.push_back(each.limit.key);
  return out;
}

TEST(KnownRules, AreThoseThatApply) {
  KnownRules known;
  const auto config = config_of(100);
  // Written one after the other, some of them look alike.
  const std::vector<Subject> subjects = {{.key = "ab"},
                                         {.key = "a", .user = "b"},
                                         {.user = "ab"},
                                         {.key = "ab", .tags = {{"tier", "free"}}},
                                         {.key = "ab", .tags = {{"tierf", "ree"}}},
                                         {.key = "abtier", .tenant = "free"}};
  for (int round = 0; round < 2; ++round)
    for (const Subject& subject : subjects)
      for (const char* model : {"m", "n", ""})
        EXPECT_EQ(keys(*known.find(config, subject, model)), keys(rules_for(*config, subject, model)));
  EXPECT_EQ(known.find(config, subjects[0], "m"), known.find(config, subjects[0], "m")) << "found once";
}

TEST(KnownRules, FollowTheConfiguration) {
  KnownRules known;
  const Subject subject{.key = "k"};
  const auto first = config_of(100), second = config_of(7);
  const auto before = known.find(first, subject, "m");
  const auto after = known.find(second, subject, "m");
  EXPECT_EQ(before->front().limit.capacity, 100) << "who holds them keeps them";
  EXPECT_EQ(after->front().limit.capacity, 7);
  EXPECT_EQ(after->front().rule, &second->rules.front());
  EXPECT_EQ(known.find(first, subject, "m")->front().limit.capacity, 100);
}

TEST(KnownRules, AreNotKeptForEverybodyForEver) {
  KnownRules known;
  const auto config = config_of(100);
  const auto first = known.find(config, {.key = "0"}, "m");
  for (int i = 1; i < 10'000; ++i) known.find(config, {.key = std::to_string(i)}, "m");
  EXPECT_EQ(first.use_count(), 1) << "those of long ago are forgotten";
  EXPECT_EQ(keys(*known.find(config, {.key = "0"}, "m")), keys(*first));
}

}  // namespace
}  // namespace ashlar::gateway
