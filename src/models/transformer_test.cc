// Every architecture against a plain forward pass in double precision, and
// against itself however its rows are cut into steps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <random>

#include "kernels/kernels.h"
#include "models/loader.h"
#include "models/profile.h"
#include "models/tiny_model_test.h"

// Counts what a warm step must not do.
static std::atomic<long> g_allocations{0};
void* operator new(std::size_t bytes) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes)) return p;
  std::abort();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::Type;

struct Case {
  std::string name;
  TinySpec spec;
  double tolerance;  // of the logits, relative to their root mean square
  int tokens = 40;   // fewer where a token may lie between two experts, which rounding would decide
};

// f16 keys and values are the coarsest step of a model with F32 weights.
constexpr double kFine = 2e-3;
// int8 activations: about 0.4 % of a block's greatest value, at every product.
constexpr double kQuantized = 6e-2;
// Where a norm stands behind attention and feed-forward, it lifts what they give, and its rounding, to the size of x.
constexpr double kLifted = 2;
// Tiles round all of attention and the activations of 16-bit weights to bf16 (0.4 %), others to 1/127 of the greatest
// of 256, and quantized weights again.
constexpr double kTiles = 4e-2;

std::vector<Case> cases() {
  TinySpec llama;
  TinySpec qwen2{.architecture = "qwen2", .halves = true, .qkv_bias = true, .rope_base = 1e6};
  TinySpec qwen3{.architecture = "qwen3", .head_dim = 16, .halves = true, .head_norms = true, .rope_base = 1e6};
  TinySpec granite{.architecture = "granite",
                   .embedding_scale = 12,
                   .residual_scale = 0.22,
                   .logit_divisor = 8,
                   .attention_scale = 0.125};
  TinySpec olmo2{.architecture = "olmo2", .halves = true, .whole_norms = true, .pre_norms = false, .post_norms = true};
  TinySpec phi3{.architecture = "phi3", .halves = true, .fused = true};
  TinySpec gemma3 = tiny_gemma3();
  TinySpec mixtral{.seed = 4, .experts = 8, .experts_used = 2, .expert_hidden = 48, .normalize = true};
  TinySpec qwen2moe{.architecture = "qwen2moe",
                    .halves = true,
                    .qkv_bias = true,
                    .rope_base = 1e6,
                    .experts = 6,
                    .experts_used = 3,
                    .shared_hidden = 40,
                    .shared_gate = true};
  TinySpec qwen3moe{.architecture = "qwen3moe",
                    .head_dim = 16,
                    .halves = true,
                    .head_norms = true,
                    .rope_base = 1e6,
                    .experts = 16,
                    .experts_used = 4,
                    .normalize = true};
  TinySpec gemma2{.architecture = "gemma2",
                  .layers = 3,
                  .head_dim = 16,
                  .window = 7,
                  .tied = true,
                  .halves = true,
                  .gelu = true,
                  .full_every = 2,
                  .post_norms = true,
                  .embedding_scale = std::sqrt(32.0),
                  .attention_cap = 2,
                  .logit_cap = 3};
  TinySpec glm4{
      .architecture = "glm4", .head_dim = 16, .rope_dims = 8, .qkv_bias = true, .post_norms = true, .fused_up = true};
  TinySpec gpt_oss{.architecture = "gpt-oss",
                   .layers = 3,
                   .head_dim = 16,
                   .window = 7,
                   .halves = true,
                   .qkv_bias = true,
                   .full_every = 2,
                   .rope_scaling = "yarn",
                   .rope_base = 150000,
                   .rope_factor = 32,
                   .experts = 4,
                   .experts_used = 2,
                   .scores = "chosen",
                   .expert_biases = true,
                   .clamped = true,
                   .sinks = true,
                   .output_bias = true,
                   .feed_forward_norm = "post_attention_norm",
                   .whole_pairs = false};
  TinySpec deepseek2{.architecture = "deepseek2",
                     .layers = 3,
                     .head_dim = 24,
                     .rope_dims = 8,
                     .experts = 8,
                     .experts_used = 3,
                     .shared_hidden = 48,
                     .dense_layers = 1,
                     .latent_rank = 16,
                     .query_rank = 24,
                     .value_dim = 16,
                     .expert_keys = true};
  const auto with = [](TinySpec spec, auto change) {
    change(spec);
    return spec;
  };
  // Beyond what stays with the vector kernels on a CPU with tiles.
  const auto widest = [](TinySpec& s) { s.width = 1024, s.hidden = 1280, s.heads = 16, s.head_dim = 64, s.layers = 1; };
  const auto wide = [](TinySpec& s) { s.width = 256, s.hidden = 256, s.heads = 4, s.head_dim = 64, s.layers = 1; };
  // All experts are used, for rounding would choose.
  const auto quantized = [](Type type) {
    return [type](TinySpec& s) {
      s.type = type, s.width = 64, s.head_dim = 16, s.hidden = s.expert_hidden = 96, s.experts_used = s.experts;
      if (s.shared_hidden > 0) s.shared_hidden = 96;
    };
  };
  return {
      {"llama", llama, kFine},
      {"llama_tied", with(llama, [](TinySpec& s) { s.tied = true, s.seed = 2; }), kFine},
      {"llama_many_heads", with(llama, [](TinySpec& s) { s.heads = 12, s.kv_heads = 1, s.width = 96; }), kFine},
      {"llama_own_kv", with(llama, [](TinySpec& s) { s.kv_heads = 4; }), kFine},
      {"llama_head_dim", with(llama, [](TinySpec& s) { s.head_dim = 24, s.seed = 3; }), kFine},
      {"llama_part_turns", with(llama, [](TinySpec& s) { s.head_dim = 16, s.rope_dims = 8; }), kFine},
      {"llama_biases", with(llama, [](TinySpec& s) { s.qkv_bias = true; }), kFine},
      {"llama3_factors", with(llama, [](TinySpec& s) { s.rope_factors = true, s.rope_base = 5e5; }), kFine},
      {"llama_linear", with(llama, [](TinySpec& s) { s.rope_scaling = "linear"; }), kFine},
      {"llama_yarn", with(llama, [](TinySpec& s) { s.rope_scaling = "yarn", s.head_dim = 32; }), kFine},
      {"mistral_window", with(llama, [](TinySpec& s) { s.window = 7; }), kFine},
      {"llama_f16", with(llama, [](TinySpec& s) { s.type = Type::f16; }), kFine},
      {"llama_bf16", with(llama, [](TinySpec& s) { s.type = Type::bf16; }), kFine},
      {"llama_q8_0",
       with(llama, [](TinySpec& s) { s.type = Type::q8_0, s.width = 64, s.head_dim = 16, s.hidden = 96; }), kQuantized},
      {"llama_q4_0_tied",
       with(llama,
            [](TinySpec& s) { s.type = Type::q4_0, s.width = 64, s.head_dim = 16, s.hidden = 96, s.tied = true; }),
       kQuantized},
      {"llama_q4_k_m",
       with(llama, [&](TinySpec& s) { wide(s), s.type = Type::q4_k, s.other_type = Type::q6_k, s.mixed = true; }),
       kQuantized},
      {"llama_float_and_quantized",
       with(llama, [&](TinySpec& s) { wide(s), s.type = Type::q8_0, s.other_type = Type::f16, s.mixed = true; }),
       kQuantized},
      {"llama_q4_0_widest", with(llama, [&](TinySpec& s) { widest(s), s.type = Type::q4_0; }), kQuantized},
      {"llama_q4_k_m_widest",
       with(llama, [&](TinySpec& s) { widest(s), s.type = Type::q4_k, s.other_type = Type::q6_k, s.mixed = true; }),
       kQuantized},
      {"qwen2", qwen2, kFine},
      {"qwen2_tied_yarn", with(qwen2, [](TinySpec& s) { s.tied = true, s.rope_scaling = "yarn"; }), kFine},
      {"qwen2_q8_0",
       with(qwen2, [](TinySpec& s) { s.type = Type::q8_0, s.width = 64, s.head_dim = 16, s.hidden = 96; }), kQuantized},
      {"qwen3", qwen3, kFine},
      {"qwen3_tied", with(qwen3, [](TinySpec& s) { s.tied = true, s.heads = 6, s.kv_heads = 2; }), kFine},
      {"qwen3_q4_0", with(qwen3, [](TinySpec& s) { s.type = Type::q4_0, s.width = 64, s.heads = 4, s.hidden = 96; }),
       kQuantized},
      {"granite", granite, kFine},
      {"granite_tied", with(granite, [](TinySpec& s) { s.tied = true, s.rope_factors = true; }), kFine},
      {"granite_q8_0",
       with(granite, [](TinySpec& s) { s.type = Type::q8_0, s.width = 64, s.head_dim = 16, s.hidden = 96; }),
       kQuantized},
      {"olmo2", olmo2, kLifted * kFine},
      {"olmo2_tied_head_dim", with(olmo2, [](TinySpec& s) { s.tied = true, s.head_dim = 24, s.layers = 3; }),
       kLifted * kFine},
      {"olmo2_q8_0",
       with(olmo2, [](TinySpec& s) { s.type = Type::q8_0, s.width = 64, s.head_dim = 16, s.hidden = 96; }),
       kLifted * kQuantized},
      {"phi3", phi3, kFine},
      {"phi3_window", with(phi3, [](TinySpec& s) { s.window = 9; }), kFine},
      {"phi3_long",
       with(phi3, [](TinySpec& s) { s.head_dim = 16, s.rope_dims = 12, s.long_rope = true, s.rope_length = 1.19; }),
       kFine},
      {"phi3_short",
       with(phi3,
            [](TinySpec& s) { s.tied = true, s.long_rope = true, s.original_context = 128, s.rope_length = 0.9; }),
       kFine},
      {"phi3_q4_0", with(phi3, [](TinySpec& s) { s.type = Type::q4_0, s.width = 64, s.head_dim = 16, s.hidden = 96; }),
       kQuantized},
      {"gemma2", gemma2, kLifted * kFine},
      {"gemma2_no_caps", with(gemma2, [](TinySpec& s) { s.attention_cap = s.logit_cap = 0, s.tied = false; }),
       kLifted * kFine},
      {"gemma2_pattern", with(gemma2, [](TinySpec& s) { s.layers = 4, s.full_every = 3, s.attention_cap = 1; }),
       kLifted * kFine},
      {"gemma2_q8_0",
       with(gemma2, [](TinySpec& s) { s.type = Type::q8_0, s.width = 64, s.hidden = 96, s.embedding_scale = 8; }),
       kLifted * kQuantized},
      {"glm4", glm4, kLifted * kFine},
      {"glm4_no_biases", with(glm4, [](TinySpec& s) { s.qkv_bias = false, s.kv_heads = 1; }), kLifted * kFine},
      {"glm4_q8_0", with(glm4, [](TinySpec& s) { s.type = Type::q8_0, s.width = 64, s.hidden = 96; }),
       kLifted * kQuantized},
      {"gemma3", gemma3, kLifted * kFine},
      {"gemma3_linear", with(gemma3, [](TinySpec& s) { s.rope_scaling = "linear", s.rope_factor = 8; }),
       kLifted * kFine},
      {"gemma3_pattern", with(gemma3, [](TinySpec& s) { s.layers = 4, s.full_every = 2, s.window_rope_base = 500; }),
       kLifted * kFine},
      {"gemma3_62_layers",
       with(gemma3, [](TinySpec& s) { s.layers = 62, s.tied = false, s.attention_scale = std::sqrt(4 / 32.0); }),
       kLifted * kFine},
      {"gemma3_q8_0",
       with(gemma3, [](TinySpec& s) { s.type = Type::q8_0, s.width = 64, s.hidden = 96, s.embedding_scale = 8; }),
       kLifted * kQuantized},
      {"mixtral", mixtral, kFine, 12},
      {"mixtral_all_of_three", with(mixtral, [](TinySpec& s) { s.experts = s.experts_used = 3, s.tied = true; }),
       kFine},
      {"mixtral_one", with(mixtral, [](TinySpec& s) { s.experts_used = 1; }), kFine, 12},
      {"mixtral_q8_0", with(mixtral, quantized(Type::q8_0)), kQuantized},
      {"mixtral_bf16", with(mixtral, [](TinySpec& s) { s.type = Type::bf16; }), kFine, 12},
      {"qwen2moe", qwen2moe, kFine, 12},
      {"qwen2moe_q4_0", with(qwen2moe, quantized(Type::q4_0)), kQuantized},
      {"qwen3moe", qwen3moe, kFine, 12},
      {"qwen3moe_tied_q8_0", with(qwen3moe, quantized(Type::q8_0)), kQuantized},
      {"gpt_oss", gpt_oss, kFine, 12},
      {"gpt_oss_all_experts", with(gpt_oss, [](TinySpec& s) { s.experts_used = s.experts, s.tied = true; }), kFine},
      {"gpt_oss_mxfp4",
       with(gpt_oss,
            [&](TinySpec& s) {
              quantized(Type::bf16)(s);
              s.expert_type = Type::mxfp4;
            }),
       1.5 * kQuantized},
      {"deepseek2", deepseek2, kFine, 12},
      {"deepseek2_lite", with(deepseek2, [](TinySpec& s) { s.query_rank = 0, s.head_dim = 32; }), kFine, 12},
      {"deepseek2_dense", with(deepseek2, [](TinySpec& s) { s.dense_layers = 3, s.split = true; }), kFine},
      {"deepseek2_yarn",
       with(deepseek2,
            [](TinySpec& s) {
              s.rope_scaling = "yarn", s.rope_factor = 40, s.log_multiplier = 0.0707, s.experts_used = s.experts;
            }),
       2 * kFine},
      {"deepseek3",
       with(deepseek2,
            [](TinySpec& s) {
              s.split = s.choice_bias = s.normalize = true;
              s.scores = "sigmoid", s.expert_groups = 4, s.expert_groups_used = 2, s.expert_scale = 2.5;
            }),
       kFine, 12},
      {"deepseek3_q8_0",
       with(deepseek2,
            [&](TinySpec& s) {
              quantized(Type::q8_0)(s);
              s.latent_rank = s.query_rank = s.value_dim = 32, s.head_dim = 48, s.rope_dims = 16;
              s.split = s.normalize = true, s.scores = "sigmoid";
            }),
       1.5 * kQuantized},
      {"olmo3",
       with(olmo2,
            [](TinySpec& s) {
              s.layers = 5, s.window = 7, s.full_every = 4;
              s.rope_scaling = "yarn", s.window_rope_base = s.rope_base;
            }),
       kLifted * kFine},
  };
}

struct Loaded {
  ThreadPool pool;
  TinyModel tiny;
  LoadedModel loaded;
  std::unique_ptr<KvStore> kv;

  explicit Loaded(const TinySpec& spec, int max_rows = 512, KvType type = KvType::f16, int threads = 1)
      : pool(threads), tiny(spec) {
    const fs::path path = fs::temp_directory_path() / ("ashlar_tiny_" + std::to_string(::getpid()) + ".gguf");
    CHECK(tiny.writer().write(path), "temporary files can be written");
    auto result = load(path, {.max_rows = max_rows}, pool);
    CHECK(result.has_value(), result.error().message.c_str());
    loaded = std::move(*result);
    fs::remove(path);
    kv = loaded.model->make_kv_store(32, type).value();
  }
  Model& model() { return *loaded.model; }
  std::size_t vocabulary() { return static_cast<std::size_t>(model().shape().vocabulary); }
};

// Piece of a sequence to run in one step.
struct Piece {
  int sequence;
  int tokens;
};

// Two sequences with blocks strewn over the store, run in the steps given.
// Returns each sequence's logits [tokens, vocabulary].
struct Runner {
  Loaded& model;
  std::vector<std::vector<std::int32_t>> tokens;
  std::vector<std::vector<int>> blocks{{5, 2, 9, 0, 11}, {7, 3, 1, 8, 4}};
  std::vector<std::vector<float>> logits{{}, {}};
  std::vector<int> done{0, 0};

  void step(const std::vector<Piece>& pieces, const std::function<void()>* pause = nullptr) {
    std::vector<std::int32_t> ids;
    std::vector<Step::Sequence> sequences;
    std::vector<int> rows;
    for (const Piece& piece : pieces) {
      const auto which = static_cast<std::size_t>(piece.sequence);
      sequences.push_back({static_cast<int>(ids.size()), piece.tokens, done[which], blocks[which]});
      for (int i = 0; i < piece.tokens; ++i) {
        rows.push_back(static_cast<int>(ids.size()));
        ids.push_back(tokens[which][static_cast<std::size_t>(done[which]++)]);
      }
    }
    std::vector<float> out(ids.size() * model.vocabulary());
    model.model().forward({.tokens = ids, .sequences = sequences, .logit_rows = rows, .logits = out, .pause = pause},
                          *model.kv);
    auto from = out.begin();
    for (const Piece& piece : pieces) {
      const auto count = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(piece.tokens) * model.vocabulary());
      auto& to = logits[static_cast<std::size_t>(piece.sequence)];
      to.insert(to.end(), from, from + count);
      from += count;
    }
  }
};

std::vector<std::int32_t> random_tokens(int count, int vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(vocabulary)));
  return tokens;
}

double distance(const std::vector<std::vector<double>>& expected, const std::vector<float>& found) {
  double squares = 0, worst = 0;
  std::size_t at = 0;
  for (const auto& row : expected)
    for (const double value : row) {
      squares += value * value;
      worst = std::max(worst, std::abs(value - static_cast<double>(found[at++])));
    }
  return worst / std::sqrt(squares / static_cast<double>(at));
}

class EveryModel : public testing::TestWithParam<Case> {
 protected:
  ~EveryModel() override { EXPECT_TRUE(kernels::select_isa("auto")); }
};

TEST_P(EveryModel, ComputesWhatThePlainPassComputes) {
  const int count = GetParam().tokens;
  const auto tokens = random_tokens(count, 40, 1);
  const auto expected = TinyModel(GetParam().spec).logits(tokens);
  for (const kernels::Kernels* row : kernels::kernel_rows()) {
    ASSERT_TRUE(kernels::select_isa(row->isa));
    Loaded model(GetParam().spec);
    Runner runner{.model = model, .tokens = {tokens, tokens}};
    runner.step({{0, count}});
    const bool tiles = std::string_view(row->isa) == "amx";
    EXPECT_LT(distance(expected, runner.logits[0]), GetParam().tolerance + (tiles ? kTiles : 0)) << row->isa;
  }
}

void expect_cuts_do_not_matter(const TinySpec& spec) {
  Loaded model(spec);
  const std::vector<std::vector<std::int32_t>> tokens{random_tokens(21, 40, 2), random_tokens(35, 40, 3)};
  Runner whole{.model = model, .tokens = tokens};
  whole.step({{0, 21}});
  whole.step({{1, 35}});
  Runner single{.model = model, .tokens = tokens};
  for (int i = 0; i < 21; ++i) single.step({{0, 1}});
  for (int i = 0; i < 35; ++i) single.step({{1, 1}});
  EXPECT_EQ(whole.logits, single.logits);
  Runner mixed{.model = model, .tokens = tokens};
  mixed.step({{0, 15}});
  mixed.step({{1, 3}, {0, 1}});
  mixed.step({{0, 1}, {1, 16}});
  while (mixed.done[0] < 21) mixed.step({{0, 1}, {1, 1}});
  mixed.step({{1, 35 - mixed.done[1]}});
  EXPECT_EQ(whole.logits, mixed.logits);
  Loaded small(spec, /*max_rows=*/5);
  Runner pieces{.model = small, .tokens = tokens};
  pieces.step({{1, 33}, {0, 21}});
  pieces.step({{1, 2}});
  EXPECT_EQ(whole.logits, pieces.logits);
}

TEST_P(EveryModel, ComputesOneStepInThePausesOfAnother) {
  Loaded model(GetParam().spec, /*max_rows=*/16);
  const std::vector<std::vector<std::int32_t>> tokens{random_tokens(21, 40, 2), random_tokens(35, 40, 3)};
  Runner apart{.model = model, .tokens = tokens};
  apart.step({{0, 21}});
  apart.step({{1, 35}});
  Runner amid{.model = model, .tokens = tokens};
  int pauses = 0;
  const std::function<void()> pause = [&] {
    if (++pauses % 2 == 1 && amid.done[1] < 35) amid.step({{1, std::min(5, 35 - amid.done[1])}});
  };
  while (amid.done[0] < 21) amid.step({{0, std::min(7, 21 - amid.done[0])}}, &pause);
  EXPECT_GE(pauses, 3);
  while (amid.done[1] < 35) amid.step({{1, 1}});
  EXPECT_EQ(apart.logits, amid.logits);
}

TEST_P(EveryModel, DoesNotCareHowRowsAreCutIntoSteps) {
  expect_cuts_do_not_matter(GetParam().spec);
  if (GetParam().spec.experts == 0) return;  // the rest of a layer is tested with the kernels
  for (const kernels::Kernels* row : kernels::kernel_rows()) {
    ASSERT_TRUE(kernels::select_isa(row->isa));
    expect_cuts_do_not_matter(GetParam().spec);
  }
}

INSTANTIATE_TEST_SUITE_P(Transformer, EveryModel, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(Transformer, GivesLogitsOfTheAskedRowsAlone) {
  Loaded model({});
  const auto tokens = random_tokens(30, 40, 4);
  Runner runner{.model = model, .tokens = {tokens, tokens}};
  runner.step({{0, 30}});
  for (const std::vector<int>& asked : {std::vector<int>{}, {29}, {0}, {3, 4, 5, 17, 29}}) {
    for (const int max_rows : {512, 7}) {
      Loaded other({}, max_rows);
      std::vector<float> logits(asked.size() * other.vocabulary());
      const std::vector<Step::Sequence> sequences{{0, 10, 0, runner.blocks[0]}, {10, 20, 10, runner.blocks[0]}};
      other.model().forward({tokens, sequences, asked, logits}, *other.kv);
      for (std::size_t i = 0; i < asked.size(); ++i)
        for (std::size_t v = 0; v < other.vocabulary(); ++v)
          ASSERT_EQ(logits[i * other.vocabulary() + v],
                    runner.logits[0][static_cast<std::size_t>(asked[i]) * other.vocabulary() + v]);
    }
  }
}

TEST(Transformer, DoesNotCareHowManyThreadsShareTheWork) {
  const auto tokens = random_tokens(40, 40, 7);
  std::vector<std::vector<float>> found;
  for (const int threads : {1, 3}) {
    Loaded model({.kv_heads = 4}, 512, KvType::f16, threads);
    Runner runner{.model = model, .tokens = {tokens, tokens}};
    runner.step({{0, 40}});
    runner.step({{1, 7}});
    found.push_back(runner.logits[0]);
    found.push_back(runner.logits[1]);
  }
  EXPECT_EQ(found[0], found[2]);
  EXPECT_EQ(found[1], found[3]);
}

TEST(Transformer, KeysAndValuesMayBeBf16) {
  Loaded model({}, 512, KvType::bf16);
  const auto tokens = random_tokens(40, 40, 5);
  Runner runner{.model = model, .tokens = {tokens, tokens}};
  runner.step({{0, 40}});
  const double distance_bf16 = distance(model.tiny.logits(tokens), runner.logits[0]);
  EXPECT_LT(distance_bf16, 2e-2);
  EXPECT_GT(distance_bf16, 1e-5);
}

TEST(Transformer, CopiedBlocksServeAnotherSequence) {
  Loaded model({});
  const auto tokens = random_tokens(20, 40, 6);
  Runner runner{.model = model, .tokens = {tokens, tokens}};
  runner.step({{0, 20}});
  model.kv->copy_block(5, 20);
  model.kv->copy_block(2, 21);
  Runner copy{.model = model, .tokens = {tokens, tokens}};
  copy.blocks[0] = {20, 21};
  copy.done[0] = 19;
  copy.step({{0, 1}});
  const std::vector<float> last(runner.logits[0].end() - static_cast<std::ptrdiff_t>(model.vocabulary()),
                                runner.logits[0].end());
  EXPECT_EQ(copy.logits[0], last);
  EXPECT_EQ(model.kv->bytes().count >= 32 * model.model().kv_block_bytes(KvType::f16).count, true);
}

TEST(Transformer, RefusesMoreKeysAndValuesThanTheMachineHolds) {
  Loaded model({});
  const auto kv = model.model().make_kv_store(2'000'000'000, KvType::f16);
  ASSERT_FALSE(kv);
  EXPECT_EQ(kv.error().code, Code::exhausted);
}

TEST(Transformer, AllocatesNothingOnceItIsWarm) {
  Loaded model({.type = Type::q8_0, .mixed = true}, /*max_rows=*/32);
  const auto tokens = random_tokens(32, 40, 8);
  const std::vector<int> blocks{0, 1, 2}, asked{3, 31};
  const std::vector<Step::Sequence> sequences{{0, 20, 0, blocks}, {20, 12, 20, blocks}};
  std::vector<float> logits(asked.size() * model.vocabulary());
  const Step step{tokens, sequences, asked, logits};
  model.model().forward(step, *model.kv);
  const long before = g_allocations.load();
  model.model().forward(step, *model.kv);
  EXPECT_EQ(g_allocations.load(), before);
}

TEST(Transformer, AllocatesNothingForExpertsWhateverRowsTheyGet) {
  Loaded model({.architecture = "qwen2moe",
                .halves = true,
                .qkv_bias = true,
                .type = Type::q8_0,
                .experts = 6,
                .experts_used = 3,
                .expert_hidden = 32,
                .shared_hidden = 64,
                .shared_gate = true},
               /*max_rows=*/32);
  const std::vector<int> blocks{0, 1, 2}, asked{3, 31};
  const std::vector<Step::Sequence> sequences{{0, 32, 0, blocks}};
  std::vector<float> logits(asked.size() * model.vocabulary());
  long before = 0;
  for (unsigned seed = 1; seed < 20; ++seed) {
    const auto tokens = random_tokens(32, 40, seed);
    before = g_allocations.load();
    model.model().forward({tokens, sequences, asked, logits}, *model.kv);
    if (seed > 1) EXPECT_EQ(g_allocations.load(), before);
  }
}

TEST(Transformer, TellsAProfileWhereItsTimeGoes) {
  Loaded model({.layers = 3, .qkv_bias = true});
  const auto tokens = random_tokens(20, 40, 9);
  Runner runner{.model = model, .tokens = {tokens, tokens}};
  Profile profile(3);
  model.model().watch(&profile);
  runner.step({{0, 20}});
  model.model().watch(nullptr);
  runner.step({{1, 20}});
  EXPECT_EQ(profile.total(Operation::embed).calls, 1);
  EXPECT_EQ(profile.total(Operation::norm).calls, 7);
  EXPECT_EQ(profile.at(Operation::norm, 3).calls, 1) << "the output's norm stands outside";
  EXPECT_EQ(profile.total(Operation::logits).calls, 1);
  EXPECT_EQ(profile.total(Operation::head_norm).calls, 0);
  for (int layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(profile.at(Operation::norm, layer).calls, 2);
    for (const Operation each :
         {Operation::qkv, Operation::qkv_bias, Operation::rope, Operation::store_kv, Operation::attention,
          Operation::attention_output, Operation::gate_up, Operation::activation, Operation::down})
      EXPECT_EQ(profile.at(each, layer).calls, 1) << name_of(each);
  }
  EXPECT_DOUBLE_EQ(profile.at(Operation::qkv, 1).cost.operations, 2.0 * 20 * 32 * (32 + 2 * 16));
  EXPECT_DOUBLE_EQ(profile.at(Operation::attention, 1).cost.operations, 4.0 * 32 * (20 * 21 / 2));
}

}  // namespace
}  // namespace ashlar::models
