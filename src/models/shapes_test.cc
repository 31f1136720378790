#include "models/shapes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "kernels/blocks.h"
#include "models/mix.h"
#include "models/random_weights.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::Type;
using testing::HasSubstr;

constexpr Type kTypes[] = {Type::f32,  Type::f16,  Type::bf16, Type::q8_0,   Type::q4_0,
                           Type::q4_1, Type::q5_0, Type::q5_1, Type::q2_k,   Type::q3_k,
                           Type::q4_k, Type::q5_k, Type::q6_k, Type::iq4_nl, Type::iq4_xs};

TEST(RandomWeights, EveryTypeHasMeanZeroAndTheDeviationAsked) {
  ThreadPool pool(2);
  constexpr std::int64_t kElements = 256 * 1024;
  for (const Type type : kTypes) {
    std::vector<std::byte> bytes(kernels::row_bytes(type, kElements)), again(bytes.size());
    fill_random(type, 0.02, 7, bytes, pool);
    ThreadPool alone(1);
    fill_random(type, 0.02, 7, again, alone);
    EXPECT_EQ(bytes, again);
    std::vector<float> values(kElements);
    kernels::dequantize_row(type, bytes.data(), values.data(), kElements);
    double sum = 0, squares = 0;
    for (const float value : values) sum += value, squares += static_cast<double>(value) * value;
    EXPECT_LT(std::abs(sum / kElements), 2e-3) << kernels::type_info(type).name;
    EXPECT_NEAR(std::sqrt(squares / kElements), 0.02, 0.002) << kernels::type_info(type).name;
  }
}

TEST(Mix, ChoosesAsPublishedFilesDo) {
  Shape llama;
  llama.layers = 16, llama.heads = 32, llama.kv_heads = 8;
  const auto choose = [&](std::string_view mix, std::string_view name, int layer, int columns, bool output = false) {
    return kernels::type_info(choose_type(*find_mix(mix), llama, {name, layer, columns, output})).name;
  };
  std::string q4_k_m;
  for (int i = 0; i < 16; ++i) q4_k_m += choose("Q4_K_M", "blk.0.attn_v.weight", i, 2048) == "Q6_K" ? '6' : '4';
  EXPECT_EQ(q4_k_m, "6644644644644666");
  EXPECT_EQ(choose("Q4_K_M", "blk.0.ffn_down.weight", 0, 8192), "Q6_K");
  EXPECT_EQ(choose("Q4_K_M", "blk.0.ffn_down_exps.weight", 0, 768), "Q6_K");
  EXPECT_EQ(choose("Q4_K_M", "blk.0.attn_q.weight", 0, 2048), "Q4_K");
  EXPECT_EQ(choose("Q4_K_M", "blk.0.attn_q.weight", 0, 896), "Q5_0");
  EXPECT_EQ(choose("Q4_K_M", "blk.0.attn_v.weight", 0, 896), "Q8_0");
  EXPECT_EQ(choose("Q4_K_S", "blk.0.attn_v.weight", 3, 2048), "Q5_K");
  EXPECT_EQ(choose("Q4_0", "token_embd.weight", -1, 2048, true), "Q6_K");
  EXPECT_EQ(choose("Q4_0", "token_embd.weight", -1, 896, true), "Q8_0");
  EXPECT_EQ(choose("Q4_0", "token_embd.weight", -1, 2048), "Q4_0");
  EXPECT_EQ(choose("Q8_0", "output.weight", -1, 2048, true), "Q8_0");
  EXPECT_EQ(choose("BF16", "output.weight", -1, 896, true), "BF16");
  EXPECT_EQ(choose("IQ4_XS", "blk.0.ffn_up.weight", 5, 896), "IQ4_NL");
  EXPECT_EQ(find_mix("q4_k"), find_mix("Q4_K_M"));
  EXPECT_EQ(find_mix("Q9"), nullptr);
}

TEST(Shapes, HaveTheirPublishedNumberOfParameters) {
  ThreadPool pool(1);
  const std::pair<std::string_view, double> published[] = {
      {"llama-3.2-1b", 1.236e9},   {"llama-3.2-3b", 3.213e9}, {"llama-3.1-8b", 8.030e9},  {"qwen2.5-0.5b", 0.494e9},
      {"qwen2.5-1.5b", 1.544e9},   {"qwen2.5-7b", 7.616e9},   {"qwen3-0.6b", 0.596e9},    {"qwen3-4b", 4.022e9},
      {"tinyllama-1.1b", 1.100e9}, {"mistral-7b", 7.242e9},   {"mixtral-8x7b", 46.703e9}, {"qwen3-30b-a3b", 30.532e9}};
  EXPECT_EQ(shape_names().size(), std::size(published));
  for (const auto& [name, parameters] : published) {
    const auto model = random_model(name, "Q4_K_M", {.weights = false}, pool);
    ASSERT_TRUE(model) << model.error().message;
    EXPECT_NEAR(static_cast<double>(model->facts.parameters) / parameters, 1, 1e-3) << name;
  }
}

TEST(Shapes, CanBeCutToSomeLayers) {
  ThreadPool pool(1);
  const auto whole = random_model("mixtral-8x7b", "Q4_0", {.weights = false}, pool);
  const auto cut = random_model("mixtral-8x7b:2", "Q4_0", {.weights = false}, pool);
  ASSERT_TRUE(whole && cut);
  EXPECT_EQ(cut->shape.layers, 2);
  const std::int64_t outside = 2 * 32000 * 4096 + 4096;
  EXPECT_EQ((cut->facts.parameters - outside) * 16, whole->facts.parameters - outside);
  for (const char* name : {"mixtral-8x7b:0", "mixtral-8x7b:33", "mixtral-8x7b:", "mixtral-8x7b:2x"})
    EXPECT_THAT(random_model(name, "Q4_0", {}, pool).error().message, HasSubstr("1 to 32 layers")) << name;
}

TEST(Shapes, UnknownNamesAreAnsweredWithTheKnownOnes) {
  ThreadPool pool(1);
  EXPECT_THAT(random_model("gpt-9", "Q4_0", {}, pool).error().message, HasSubstr("known are llama-3.2-1b"));
  EXPECT_THAT(random_model("qwen3-0.6b", "Q9", {}, pool).error().message, HasSubstr("known are F32"));
}

}  // namespace
}  // namespace ashlar::models
