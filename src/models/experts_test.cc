// The choice of experts, and what a file may not say of them.
#include "models/experts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "models/loader.h"
#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

using Scores = ExpertsConfig::Scores;

std::vector<Choice> choose(const ExpertsConfig& config, std::vector<float> logits, std::vector<float> bias = {}) {
  std::vector<float> room(static_cast<std::size_t>(config.count + config.groups));
  std::vector<Choice> out(static_cast<std::size_t>(config.used));
  choose_experts(config, bias, logits, room, out);
  return out;
}

std::vector<int> experts_of(const std::vector<Choice>& choices) {
  std::vector<int> experts;
  for (const Choice& choice : choices) experts.push_back(choice.expert);
  return experts;
}

TEST(Experts, TheBestAreChosenAndOfEqualsTheFirst) {
  const ExpertsConfig config{.count = 5, .used = 3};
  const auto chosen = choose(config, {1, 2, 0, 2, 1});
  EXPECT_EQ(experts_of(chosen), (std::vector{1, 3, 0}));
  const float sum = 1 + 2 * std::exp(1.0f) + 2 * std::exp(2.0f);
  EXPECT_NEAR(chosen[0].weight, std::exp(2.0f) / sum, 1e-6);
  EXPECT_NEAR(chosen[2].weight, std::exp(1.0f) / sum, 1e-6);
}

TEST(Experts, WeightsAddUpToTheScaleWhereTheyAreNormalized) {
  for (const Scores scores : {Scores::softmax, Scores::sigmoid, Scores::softmax_of_chosen}) {
    const ExpertsConfig config{.count = 4, .used = 2, .scores = scores, .normalize = true, .scale = 2.5f};
    const auto chosen = choose(config, {-1, 3, 0.5f, 2});
    EXPECT_EQ(experts_of(chosen), (std::vector{1, 3}));
    EXPECT_NEAR(chosen[0].weight + chosen[1].weight, 2.5, 1e-5);
    EXPECT_GT(chosen[0].weight, chosen[1].weight);
  }
}

TEST(Experts, ABiasChoosesAndDoesNotWeigh) {
  const ExpertsConfig config{.count = 3, .used = 1, .scores = Scores::sigmoid};
  const auto chosen = choose(config, {2, 1, 0}, {0, 0, 1});
  EXPECT_EQ(chosen[0].expert, 2);
  EXPECT_FLOAT_EQ(chosen[0].weight, 0.5f);
}

TEST(Experts, OnlyTheBestGroupsAreChosenFrom) {
  // The groups' best experts: 3, 2.9; their best two: 3 + 0, 2.9 + 2.8.
  const std::vector<float> logits{3, 0, 2.9f, 2.8f};
  const ExpertsConfig by_best{.count = 4, .used = 2, .groups = 2, .groups_used = 1};
  EXPECT_EQ(experts_of(choose(by_best, logits)), (std::vector{0, 1}));
  const ExpertsConfig by_two{.count = 4, .used = 2, .scores = Scores::sigmoid, .groups = 2, .groups_used = 1};
  EXPECT_EQ(experts_of(choose(by_two, logits)), (std::vector{2, 3}));
}

TEST(Experts, LogitsThatAreNotFiniteStillChooseDifferentExperts) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(),
                  kNothing = std::numeric_limits<float>::quiet_NaN();
  for (const Scores scores : {Scores::softmax, Scores::sigmoid, Scores::softmax_of_chosen})
    for (const int groups_used : {1, 2})
      for (const float bad : {kNothing, kInfinity, -kInfinity})
        for (const bool all : {false, true}) {
          const ExpertsConfig config{.count = 6, .used = 3, .scores = scores, .groups = 2, .groups_used = groups_used};
          const auto chosen =
              choose(config, all ? std::vector<float>(6, bad) : std::vector<float>{1, bad, 2, bad, 0, bad});
          const auto experts = experts_of(chosen);
          EXPECT_EQ(std::set<int>(experts.begin(), experts.end()).size(), 3u);
          for (const int expert : experts) EXPECT_TRUE(expert >= 0 && expert < 6);
        }
}

std::string refusal(const TinySpec& spec) {
  const TinyModel tiny(spec);
  const std::string bytes = tiny.writer().bytes().value();
  const auto view = std::as_bytes(std::span(bytes));
  ThreadPool pool(1);
  auto file = gguf::File::in_memory({view.begin(), view.end()}, "model.gguf");
  const auto loaded = load(std::move(file).value(), {}, pool);
  return loaded ? "" : loaded.error().message;
}

const TinySpec kSpec{.architecture = "qwen3moe", .head_dim = 16, .head_norms = true, .experts = 6, .experts_used = 3};

TEST(Experts, ModelsLoad) { EXPECT_EQ(refusal(kSpec), ""); }

TEST(Experts, KeysThatContradictEachOtherOrTheTensorsAreRefused) {
  const auto with = [](const std::string& key, std::uint32_t value) {
    TinySpec spec = kSpec;
    spec.expert_keys = true;
    spec.wrong_keys[key] = value;
    return refusal(spec);
  };
  EXPECT_EQ(with("expert_used_count", 7), "model.gguf: key 'qwen3moe.expert_used_count' is 7; 1 to 6 are possible");
  EXPECT_EQ(with("expert_used_count", 0), "model.gguf: key 'qwen3moe.expert_used_count' is 0; 1 to 6 are possible");
  EXPECT_EQ(with("expert_count", 5), "model.gguf: tensor 'blk.0.ffn_gate_inp.weight' is [32, 6]; [32, 5] is expected");
  EXPECT_EQ(with("expert_count", 0), "model.gguf: key 'qwen3moe.expert_count' is missing or 0");
  EXPECT_EQ(with("expert_count", 4'000'000'000),
            "model.gguf: key 'qwen3moe.expert_count' is 4000000000; 1 to 1024 are possible");
  EXPECT_EQ(with("expert_feed_forward_length", 48),
            "model.gguf: tensor 'blk.0.ffn_gate_exps.weight' is [32, 24, 6]; [32, 48, 6] is expected");
  EXPECT_EQ(with("expert_group_count", 4),
            "model.gguf: key 'qwen3moe.expert_group_count' is 4, which does not divide 6 experts");
  EXPECT_EQ(
      with("expert_gating_func", 9),
      "model.gguf: key 'qwen3moe.expert_gating_func' is 9; 1 (softmax), 2 (sigmoid) and 3 (softmax of the chosen) "
      "are supported");
  TinySpec grouped = kSpec;
  grouped.expert_keys = true;
  grouped.expert_groups = 3;
  EXPECT_EQ(refusal(grouped), "model.gguf: key 'qwen3moe.expert_used_count' is 3, but 1 of 3 groups have 2 experts");
}

TEST(Experts, ArchitecturesWithoutThemRefuseThem) {
  EXPECT_EQ(refusal({.architecture = "qwen2", .qkv_bias = true, .experts = 4}),
            "model.gguf: key 'qwen2.expert_count' is 4; experts are not supported here");
}

TEST(Experts, ATokenCostsWhatItMeets) {
  const TinySpec spec{.layers = 1, .tied = true, .experts = 8, .experts_used = 2, .expert_hidden = 48};
  TinyModel tiny(spec);
  const std::string bytes = tiny.writer().bytes().value();
  const auto view = std::as_bytes(std::span(bytes));
  ThreadPool pool(1);
  const auto loaded = load(gguf::File::in_memory({view.begin(), view.end()}, "model.gguf").value(), {}, pool).value();
  const std::int64_t attention = 32 * (32 + 2 * 16) + 32 * 32, router = 8 * 32, experts = 2 * 3 * 48 * 32;
  EXPECT_EQ(loaded.model->work_per_token().weights, attention + router + experts + 40 * 32);
}

}  // namespace
}  // namespace ashlar::models
