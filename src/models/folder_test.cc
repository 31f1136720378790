// Hugging Face folders of every family: they compute what the plain pass computes, and the very bits of the GGUF file
// that they are converted to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "kernels/kernels.h"
#include "models/convert.h"
#include "models/loader.h"
#include "models/tiny_folder_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using kernels::Type;
using testing::HasSubstr;

struct Case {
  std::string name;
  TinySpec spec;
  TinyFolderOptions options;
  double tolerance = 1e-2;
};

class FolderTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(room), fs::create_directories(room); }
  void TearDown() override { fs::remove_all(room); }

  std::vector<float> logits_of(const LoadedModel& loaded, const std::vector<std::int32_t>& tokens) {
    const auto kv = loaded.model->make_kv_store(8, KvType::f16).value();
    const std::vector<int> blocks{3, 1, 4, 0};
    std::vector<int> rows(tokens.size());
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int>(i);
    std::vector<float> out(tokens.size() * static_cast<std::size_t>(loaded.shape.vocabulary));
    const std::vector<Step::Sequence> sequences{{0, static_cast<int>(tokens.size()), 0, blocks}};
    loaded.model->forward({tokens, sequences, rows, out}, *kv);
    return out;
  }
  void convert() {
    auto out = NewFile::create(room / "out.gguf", /*replace=*/true);
    ASSERT_TRUE(out);
    const auto facts = convert_model(room / "hf", {}, [](auto, auto, auto) { return Status(); }, *out);
    ASSERT_TRUE(facts) << facts.error().message;
    ASSERT_TRUE(out->commit());
  }
  std::string refusal() {
    const auto loaded = load(room / "hf", {}, pool);
    return loaded ? "fine" : loaded.error().message;
  }

  fs::path room = fs::temp_directory_path() / ("ashlar_folder_" + std::to_string(getpid()));
  ThreadPool pool{1};
};

class EveryFolder : public FolderTest, public testing::WithParamInterface<Case> {};

TEST_P(EveryFolder, ComputesWhatThePlainPassAndTheConvertedFileCompute) {
  const TinyModel tiny(GetParam().spec);
  write_tiny_folder(tiny, room / "hf", GetParam().options);
  const auto folder = load(room / "hf", {}, pool);
  ASSERT_TRUE(folder) << folder.error().message;
  const std::vector<std::int32_t> tokens{1, 17, 3, 39, 8, 8, 21, 0, 30, 5, 12, 33, 2, 2, 19, 27, 4, 11, 38, 6};
  const std::vector<float> found = logits_of(*folder, tokens);
  double squares = 0, worst = 0;
  std::size_t at = 0;
  for (const auto& row : tiny.logits(tokens))
    for (const double value : row) {
      squares += value * value;
      worst = std::max(worst, std::abs(value - static_cast<double>(found[at++])));
    }
  const bool tiles = std::string_view(kernels::kernels().isa) == "amx";
  EXPECT_LT(worst / std::sqrt(squares / static_cast<double>(at)), GetParam().tolerance + (tiles ? 5e-2 : 0));
  convert();
  const auto file = load(room / "out.gguf", {}, pool);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(logits_of(*file, tokens), found);
  EXPECT_EQ(file->shape.context, folder->shape.context);
  EXPECT_EQ(file->shape.sliding_window, GetParam().spec.window);
}

std::vector<Case> cases() {
  const TinySpec llama, bf16{.type = Type::bf16}, f16{.type = Type::f16};
  TinySpec granite{.architecture = "granite",
                   .embedding_scale = 12,
                   .residual_scale = 0.25,
                   .logit_divisor = 8,
                   .attention_scale = 0.125};
  TinySpec olmo2{.architecture = "olmo2", .halves = true, .whole_norms = true, .pre_norms = false, .post_norms = true};
  TinySpec olmo3 = olmo2;
  olmo3.layers = 5, olmo3.window = 7, olmo3.full_every = 4, olmo3.rope_scaling = "yarn", olmo3.window_rope_base = 10000;
  const TinySpec gemma = tiny_gemma3();
  TinySpec other = gemma;
  other.layers = 4, other.full_every = 3, other.window_rope_base = 500, other.attention_scale = 0.125;
  TinySpec linear = gemma;
  linear.rope_scaling = "linear", linear.rope_factor = 8;
  TinySpec gemma2 = gemma;
  gemma2.architecture = "gemma2", gemma2.layers = 3, gemma2.full_every = 2, gemma2.head_norms = false;
  gemma2.window_rope_base = 0, gemma2.rope_base = 10000, gemma2.attention_cap = 2, gemma2.logit_cap = 3;
  TinySpec glm4{
      .architecture = "glm4", .head_dim = 16, .rope_dims = 8, .qkv_bias = true, .post_norms = true, .fused_up = true};
  TinySpec phi3{.architecture = "phi3", .halves = true, .fused = true};
  TinySpec part = phi3;
  part.head_dim = 16, part.rope_dims = 12;
  TinySpec long_rope = part;
  long_rope.long_rope = true, long_rope.rope_length = 1.19;
  return {
      {"phi3_long", long_rope, {}},
      {"llama", llama, {}},
      {"llama_bf16_sharded", bf16, {.sharded = true}},
      {"llama_f16_tied", TinySpec{.tied = true, .type = Type::f16}, {}},
      {"qwen2", TinySpec{.architecture = "qwen2", .halves = true, .qkv_bias = true}, {}},
      {"qwen3",
       TinySpec{.architecture = "qwen3", .head_dim = 16, .halves = true, .head_norms = true},
       {.new_rope = true}},
      {"granite", granite, {}},
      {"olmo2", olmo2, {}, 2e-2},
      {"olmo3", olmo3, {}, 2e-2},
      {"phi3", phi3, {}},
      {"phi3_part_turns", part, {.new_rope = true}},
      {"gemma2", gemma2, {}, 2e-2},
      {"gemma3", gemma, {}, 2e-2},
      {"gemma3_wrapped", linear, {.wrapped = true}, 2e-2},
      {"gemma3_other_pattern", other, {.new_rope = true}, 2e-2},
      {"glm4", glm4, {}, 2e-2},
      {"glm4_new_rope", glm4, {.new_rope = true}, 2e-2},
  };
}

INSTANTIATE_TEST_SUITE_P(Folder, EveryFolder, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

// What publishers call the same tensors, and what they leave out.
TEST_F(FolderTest, TensorsByOtherNames) {
  const TinySpec qwen{.architecture = "qwen3", .head_dim = 16, .tied = true, .halves = true, .head_norms = true};
  TinySpec untied = qwen, gemma = tiny_gemma3();
  gemma.layers = TinySpec().layers;
  untied.tied = false;
  const auto bare = [](std::string name) { return name.starts_with("lm_head") ? "" : name.substr(name.find('.') + 1); };
  const auto newer = [](std::string name) { return "model.language_model." + name.substr(21); };
  const auto scored = [](std::string name) { return name.starts_with("lm_head") ? "score.weight" : name; };
  const auto headless = [](std::string name) { return name.starts_with("lm_head") ? "" : name; };
  const std::string model = R"({"architectures":["Qwen3Model"]})";
  const std::string classifier =
      R"({"architectures":["Qwen3ForSequenceClassification"],"id2label":{"0":"no","1":"yes"}})";
  const struct {
    const char* what;
    TinySpec spec;
    TinyFolderOptions options;
    std::optional<Pooling> pooling;
    std::string error;
  } cases[] = {
      {"embeds", qwen, {.config = model, .name = bare}, Pooling::last, ""},
      {"embeds, not tied", untied, {.config = model, .name = bare}, Pooling::last, ""},
      {"wrapped as newer writers do it", gemma, {.wrapped = true, .name = newer}, {}, ""},
      {"classifies", untied, {.config = classifier, .name = scored}, Pooling::rank, ""},
      {"classifies with nothing", untied, {.config = classifier, .name = headless}, {}, "there is no score.weight"},
      {"no output matrix", untied, {.name = headless}, {}, "there is no lm_head.weight"},
      {"a tied one stored too", untied, {.config = R"({"tie_word_embeddings":true})"}, {}, ""},
      {"bidirectional", qwen, {.config = R"({"is_causal":false})"}, {}, "is_causal"},
  };
  for (const auto& one : cases) {
    SCOPED_TRACE(one.what);
    fs::remove_all(room / "hf");
    write_tiny_folder(TinyModel(one.spec), room / "hf", one.options);
    if (!one.error.empty()) {
      EXPECT_THAT(refusal(), HasSubstr(one.error));
      continue;
    }
    const auto loaded = load(room / "hf", {}, pool);
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(loaded->config->pooling, one.pooling);
    EXPECT_EQ(loaded->model->head() != nullptr, one.pooling == Pooling::rank);
    if (one.pooling == Pooling::rank) EXPECT_THAT(loaded->config->labels, testing::ElementsAre("no", "yes"));
  }
}

TEST_F(FolderTest, FilesBesideTheModelDoNotMatter) {
  write_tiny_folder(TinyModel({}), room / "hf", {.sharded = true});
  fs::create_directories(room / "hf/original");
  for (const char* file :
       {"consolidated.safetensors", "original/consolidated.00.pth", "pytorch_model.bin", "params.json"})
    std::ofstream(room / "hf" / file) << "no weights at all";
  EXPECT_EQ(refusal(), "fine");
  for (const char* gone :
       {"model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"})
    fs::remove(room / "hf" / gone);
  EXPECT_THAT(refusal(), HasSubstr("pytorch_model.bin: pickles and zip archives are not read"));
}

TEST_F(FolderTest, TakesEndsAndAdviceOfItsGenerationConfig) {
  write_tiny_folder(TinyModel({}), room / "hf",
                    {.generation = R"({"eos_token_id": [3, 7], "temperature": 0.6, "top_p": 0.9, "top_k": 20,
                                       "repetition_penalty": 1.1, "min_p": 0.05})"});
  convert();
  for (const char* name : {"hf", "out.gguf"}) {
    const auto loaded = load(room / name, {.weights = false}, pool);
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_THAT(loaded->vocabulary.end_of_generation, testing::IsSupersetOf({3, 7}));
    const SamplingAdvice& advice = loaded->facts.sampling;
    EXPECT_FLOAT_EQ(static_cast<float>(advice.temperature.value_or(0)), 0.6f);
    EXPECT_FLOAT_EQ(static_cast<float>(advice.top_p.value_or(0)), 0.9f);
    EXPECT_FLOAT_EQ(static_cast<float>(advice.repetition_penalty.value_or(0)), 1.1f);
    EXPECT_EQ(advice.top_k, 20);
  }
}

TEST_F(FolderTest, PackedWeightsAreKeptUntilAShardOrTheConfigChanges) {
  write_tiny_folder(TinyModel({}), room / "hf", {.sharded = true});
  const LoadOptions options{.packed_cache = PackedCache(room / "packed", 1_GiB, {0})};
  const auto origin = [&] {
    const auto loaded = load(room / "hf", options, pool);
    EXPECT_TRUE(loaded) << loaded.error().message;
    return loaded ? loaded->weights : PackedImage::Origin::fresh;
  };
  EXPECT_EQ(origin(), PackedImage::Origin::fresh);
  EXPECT_NE(origin(), PackedImage::Origin::fresh);
  write_tiny_folder(TinyModel({.seed = 9}), room / "hf", {.sharded = true});
  EXPECT_EQ(origin(), PackedImage::Origin::fresh);
  EXPECT_NE(origin(), PackedImage::Origin::fresh);
}

TEST_F(FolderTest, RefusesWhatDoesNotBelongTogether) {
  write_tiny_folder(TinyModel({.architecture = "qwen2", .halves = true, .qkv_bias = true}), room / "hf");
  fs::remove(room / "hf/vocab.json");
  EXPECT_THAT(refusal(), HasSubstr("there is no vocabulary; one of tokenizer.json"));
  write_tiny_folder(TinyModel({.vocabulary = 30}), room / "other");
  fs::copy_file(room / "other/vocab.json", room / "hf/vocab.json");
  fs::copy_file(room / "other/model.safetensors", room / "hf/model.safetensors", fs::copy_options::overwrite_existing);
  EXPECT_THAT(refusal(), HasSubstr("'token_embd.weight' is [32, 30]"));
}

}  // namespace
}  // namespace ashlar::models
