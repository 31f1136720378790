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

// A model's file written anew: with other keys and tensors.
struct Rewritten {
  gguf::File from;
  gguf::Writer writer;
  std::vector<std::vector<std::byte>> made;

  explicit Rewritten(const TinyModel& tiny) : from(file_of(tiny.writer())) {}
  static gguf::File file_of(const gguf::Writer& writer) {
    const std::string bytes = writer.bytes().value();
    const auto view = std::as_bytes(std::span(bytes));
    return gguf::File::in_memory({view.begin(), view.end()}, "model.gguf").value();
  }
  void keys_but(std::string_view left_out = "") {
    for (const gguf::Key& key : from.keys())
      if (key.name != left_out) writer.add(key.name, key.value);
  }
  void add(std::string_view name, const gguf::Tensor& tensor) {
    writer.add_tensor(name, tensor.type, {tensor.dims.begin(), tensor.dims.begin() + tensor.rank}, tensor.data);
  }
  Result<LoadedModel> load() const {
    static ThreadPool pool(2);
    const std::string bytes = writer.bytes().value();
    const auto view = std::as_bytes(std::span(bytes));
    return models::load(TRY(gguf::File::in_memory({view.begin(), view.end()}, "model.gguf")), {}, pool);
  }
};

std::vector<std::int32_t> some_tokens() { return {5, 17, 30, 4, 39, 12, 7, 21}; }

std::vector<float> logits_of(const LoadedModel& loaded) {
  const auto tokens = some_tokens();
  auto kv = loaded.model->make_kv_store(4, KvType::f16).value();
  const std::vector<int> rows{0, 1, 2, 3, 4, 5, 6, 7}, blocks{0, 1};
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(loaded.shape.vocabulary));
  const std::vector<Step::Sequence> sequences{{0, 8, 0, blocks}};
  loaded.model->forward({tokens, sequences, rows, logits}, *kv);
  return logits;
}

void expect_the_plain_pass(const TinyModel& tiny, const Result<LoadedModel>& loaded) {
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  const auto found = logits_of(*loaded);
  double off = 0, all = 0;
  std::size_t at = 0;
  for (const auto& row : tiny.logits(some_tokens()))
    for (const double expected : row) {
      off += std::pow(expected - double{found[at++]}, 2);
      all += expected * expected;
    }
  EXPECT_LT(std::sqrt(off / all), 0.02);
}

TEST(ExpertFiles, GateAndUpMayBeOneTensor) {
  for (const int used : {3, 6}) {
    TinySpec spec = kSpec;
    spec.experts_used = used, spec.halves = true, spec.normalize = true;
    const TinyModel tiny(spec);
    Rewritten file(tiny);
    file.keys_but();
    for (const gguf::Tensor& tensor : file.from.tensors()) {
      const std::string name(tensor.name);
      const std::size_t gate = name.find("ffn_gate_exps");
      if (name.find("ffn_up_exps") != name.npos) continue;
      if (gate == name.npos) {
        file.add(name, tensor);
        continue;
      }
      const gguf::Tensor& up = *file.from.find_tensor(std::string(name).replace(gate, 13, "ffn_up_exps"));
      std::vector<std::byte>& both = file.made.emplace_back();
      const std::size_t each = tensor.data.size() / static_cast<std::size_t>(spec.experts);
      for (std::size_t e = 0; e < static_cast<std::size_t>(spec.experts); ++e)
        for (const gguf::Tensor* half : {&tensor, &up}) {
          const auto part = half->data.subspan(e * each, each);
          both.insert(both.end(), part.begin(), part.end());
        }
      file.writer.add_tensor(std::string(name).replace(gate, 13, "ffn_gate_up_exps"), tensor.type,
                             {tensor.dims[0], 2 * tensor.dims[1], tensor.dims[2]}, both);
    }
    const auto loaded = file.load();
    expect_the_plain_pass(tiny, loaded);
    Rewritten same(tiny);
    same.keys_but();
    for (const gguf::Tensor& tensor : same.from.tensors()) same.add(tensor.name, tensor);
    EXPECT_EQ(logits_of(*loaded), logits_of(same.load().value()));
  }
}

// As converters wrote Mixtral early in 2024. `leave_out`: of the tensors that they wrote.
Rewritten old_mixtral(const TinyModel& tiny, const std::string& leave_out = "") {
  Rewritten file(tiny);
  file.keys_but();
  for (const gguf::Tensor& tensor : file.from.tensors()) {
    const std::string name(tensor.name);
    const std::size_t at = name.find("_exps.");
    if (at == name.npos) {
      file.add(name, tensor);
      continue;
    }
    const std::size_t each = tensor.data.size() / static_cast<std::size_t>(tensor.dims[2]);
    for (std::size_t e = 0; e < static_cast<std::size_t>(tensor.dims[2]); ++e) {
      const std::string own = name.substr(0, at) + "." + std::to_string(e) + ".weight";
      if (own != leave_out)
        file.writer.add_tensor(own, tensor.type, {tensor.dims[0], tensor.dims[1]}, tensor.data.subspan(e * each, each));
    }
  }
  return file;
}

TEST(ExpertFiles, OldOnesHaveATensorForEachExpert) {
  const TinyModel tiny({.experts = 12, .experts_used = 2, .expert_hidden = 48, .normalize = true});
  const Rewritten file = old_mixtral(tiny);
  expect_the_plain_pass(tiny, file.load());
  const gguf::File opened = Rewritten::file_of(file.writer);
  EXPECT_FALSE(opened.assembled());
  for (const gguf::Tensor& expected : file.from.tensors()) {
    const gguf::Tensor* found = opened.find_tensor(expected.name);
    ASSERT_NE(found, nullptr) << expected.name;
    std::vector<std::byte> room;
    EXPECT_EQ(gguf::dims_text(*found), gguf::dims_text(expected));
    EXPECT_TRUE(std::ranges::equal(opened.read(*found, room).value(), expected.data)) << expected.name;
  }
}

TEST(ExpertFiles, AnOldOneThatLacksAnExpertIsRefused) {
  const TinyModel tiny({.experts = 4, .experts_used = 2, .expert_hidden = 48});
  EXPECT_EQ(old_mixtral(tiny, "blk.1.ffn_up.2.weight").load().error().message,
            "model.gguf: there is tensor 'blk.1.ffn_up.3.weight', but none of the kind for expert 2");
  EXPECT_EQ(old_mixtral(tiny, "blk.1.ffn_up.3.weight").load().error().message,
            "model.gguf: tensor 'blk.1.ffn_up_exps.weight' is [32, 48, 3]; [32, 48, 4] is expected");
}

TEST(ExpertFiles, LayersThatPredictFurtherTokensAreLeftOut) {
  const TinySpec spec{.architecture = "deepseek2",
                      .head_dim = 24,
                      .rope_dims = 8,
                      .experts = 4,
                      .shared_hidden = 24,
                      .dense_layers = 1,
                      .normalize = true,
                      .latent_rank = 16,
                      .value_dim = 16,
                      .expert_keys = true};
  const TinyModel tiny(spec);
  for (const std::uint32_t counted : {2u, 3u}) {  // with and without the layer
    Rewritten file(tiny);
    file.keys_but("deepseek2.block_count");
    file.writer.add("deepseek2.block_count", counted);
    file.writer.add("deepseek2.nextn_predict_layers", std::uint32_t{1});
    for (const gguf::Tensor& tensor : file.from.tensors()) {
      file.add(tensor.name, tensor);
      if (tensor.name.starts_with("blk.1.")) file.add("blk.2." + std::string(tensor.name.substr(6)), tensor);
    }
    const gguf::Tensor& some = *file.from.find_tensor("blk.0.attn_norm.weight");
    file.add("blk.2.nextn.eh_proj.weight", some);
    file.add("blk.2.nextn.enorm.weight", some);
    const auto loaded = file.load();
    expect_the_plain_pass(tiny, loaded);
    EXPECT_EQ(loaded->shape.layers, 2);
    ASSERT_TRUE(check_tensors(*loaded));
  }
}

}  // namespace
}  // namespace ashlar::models
