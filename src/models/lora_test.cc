// Adapters against a plain pass with the merged weights, beside one another in one step, and merged into files.
#include "models/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/json_full.h"
#include "kernels/kernels.h"
#include "models/convert.h"
#include "models/loader.h"
#include "models/tiny_folder_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// The two factors of one matrix, in the order of rows that GGUF has.
struct Low {
  std::string name;    // "blk.0.attn_q"
  std::string module;  // "model.layers.0.self_attn.q_proj"
  int rows, columns, rank;
  int head_rows = 0;  // of q and k in folders of the Llama family
  std::vector<float> a, b;
};

std::vector<std::byte> bytes_of(const std::vector<float>& floats) {
  const auto* begin = reinterpret_cast<const std::byte*>(floats.data());
  return {begin, begin + floats.size() * sizeof(float)};
}

std::vector<float> normals(int count, double deviation, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, deviation);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& x : out) x = static_cast<float>(normal(random));
  return out;
}

// Of all matrices of a layer, or of those that `only` says.
std::vector<Low> lows_of(const TinySpec& s, int rank, unsigned seed, const std::string& only = "") {
  struct Kind {
    std::string name, module;
    int rows, columns, head_rows;
  };
  const int q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  const bool llama = s.architecture == "llama";
  std::vector<Kind> kinds{{"attn_output", "self_attn.o_proj", s.width, q, 0},
                          {"ffn_down", "mlp.down_proj", s.width, s.hidden, 0}};
  if (s.fused) {
    kinds.push_back({"attn_qkv", "self_attn.qkv_proj", q + 2 * kv, s.width, 0});
    kinds.push_back({"ffn_up", "mlp.gate_up_proj", 2 * s.hidden, s.width, 0});
  } else {
    kinds.push_back({"attn_q", "self_attn.q_proj", q, s.width, llama ? s.head_dim : 0});
    kinds.push_back({"attn_k", "self_attn.k_proj", kv, s.width, llama ? s.head_dim : 0});
    kinds.push_back({"attn_v", "self_attn.v_proj", kv, s.width, 0});
    kinds.push_back({"ffn_gate", "mlp.gate_proj", s.hidden, s.width, 0});
    kinds.push_back({"ffn_up", "mlp.up_proj", s.hidden, s.width, 0});
  }
  std::vector<Low> lows;
  for (int layer = 0; layer < s.layers; ++layer)
    for (const Kind& kind : kinds) {
      if (!only.empty() && kind.name != only) continue;
      Low low{.name = "blk." + std::to_string(layer) + "." + kind.name,
              .module = "model.layers." + std::to_string(layer) + "." + kind.module,
              .rows = kind.rows,
              .columns = kind.columns,
              .rank = rank,
              .head_rows = kind.head_rows};
      low.a = normals(rank * kind.columns, 1 / std::sqrt(kind.columns), seed + static_cast<unsigned>(2 * lows.size()));
      low.b = normals(kind.rows * rank, 0.3, seed + static_cast<unsigned>(2 * lows.size()) + 1);
      lows.push_back(std::move(low));
    }
  return lows;
}

void write_peft(const fs::path& folder, const std::vector<Low>& lows, const std::string& config) {
  fs::create_directories(folder);
  std::ofstream(folder / "adapter_config.json") << config;
  std::vector<PlainTensor> tensors;
  for (const Low& low : lows) {
    const std::string name = "base_model.model." + low.module;
    std::vector<std::byte> b = bytes_of(low.b);
    if (low.head_rows > 0) b = unwoven(b, static_cast<std::size_t>(low.rows), static_cast<std::size_t>(low.head_rows));
    tensors.push_back({name + ".lora_A.weight", "F32", {low.rank, low.columns}, bytes_of(low.a)});
    tensors.push_back({name + ".lora_B.weight", "F32", {low.rows, low.rank}, b});
  }
  write_safetensors(folder / "adapter_model.safetensors", tensors);
}

std::string peft_config(int rank, double alpha, bool rslora = false) {
  return dump_json({{"peft_type", "LORA"},
                    {"r", rank},
                    {"lora_alpha", alpha},
                    {"use_rslora", rslora},
                    {"bias", "none"},
                    {"target_modules", Json::array({"q_proj"})}});
}

void write_gguf(const fs::path& path, const std::vector<Low>& lows, float alpha, const std::string& architecture) {
  gguf::Writer writer;
  writer.add("general.architecture", architecture);
  writer.add("general.type", "adapter");
  writer.add("adapter.type", "lora");
  writer.add("adapter.lora.alpha", alpha);
  for (const Low& low : lows) {
    writer.add_tensor(low.name + ".weight.lora_a", kernels::Type::f32, {low.columns, low.rank},
                      std::as_bytes(std::span(low.a)));
    writer.add_tensor(low.name + ".weight.lora_b", kernels::Type::f32, {low.rank, low.rows},
                      std::as_bytes(std::span(low.b)));
  }
  ASSERT_TRUE(writer.write(path));
}

class LoraTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(room), fs::create_directories(room); }
  void TearDown() override { fs::remove_all(room); }

  LoadedModel open(const TinyModel& tiny) {
    EXPECT_TRUE(tiny.writer().write(room / "base.gguf"));
    auto loaded = load(room / "base.gguf", {}, pool);
    EXPECT_TRUE(loaded);
    return std::move(*loaded);
  }
  std::shared_ptr<const Adapter> adapter(const LoadedModel& model, const std::string& name) {
    auto loaded = model.model->load_adapter(room / name);
    EXPECT_TRUE(loaded) << loaded.error().message;
    return loaded.value_or(nullptr);
  }
  std::string refusal(const LoadedModel& model, const std::string& name) {
    const auto loaded = model.model->load_adapter(room / name);
    return loaded ? "fine" : loaded.error().message;
  }

  // Several sequences in one step, each with its adapter: logits of each one's last token.
  struct Row {
    std::vector<std::int32_t> tokens;
    const Adapter* adapter = nullptr;
  };
  std::vector<std::vector<float>> logits_of(LoadedModel& loaded, const std::vector<Row>& rows) {
    const auto kv = loaded.model->make_kv_store(4 * static_cast<int>(rows.size()), KvType::f16).value();
    std::vector<std::int32_t> ids;
    std::vector<std::vector<int>> blocks;
    std::vector<int> asked;
    std::vector<Step::Sequence> sequences;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const int first = static_cast<int>(i) * 4;
      blocks.push_back({first, first + 1, first + 2, first + 3});
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const int count = static_cast<int>(rows[i].tokens.size());
      sequences.push_back({static_cast<int>(ids.size()), count, 0, blocks[i], rows[i].adapter});
      ids.insert(ids.end(), rows[i].tokens.begin(), rows[i].tokens.end());
      asked.push_back(static_cast<int>(ids.size()) - 1);
    }
    const auto vocabulary = static_cast<std::size_t>(loaded.model->shape().vocabulary);
    std::vector<float> out(asked.size() * vocabulary);
    loaded.model->forward({ids, sequences, asked, out}, *kv);
    std::vector<std::vector<float>> logits;
    for (std::size_t i = 0; i < asked.size(); ++i)
      logits.emplace_back(out.begin() + static_cast<std::ptrdiff_t>(i * vocabulary),
                          out.begin() + static_cast<std::ptrdiff_t>((i + 1) * vocabulary));
    return logits;
  }

  fs::path room = fs::temp_directory_path() / ("ashlar_lora_" + std::to_string(getpid()));
  ThreadPool pool{2};
  const std::vector<std::int32_t> tokens{5, 17, 3, 39, 8, 8, 21, 0, 30, 11, 2, 2, 19, 27, 4, 1, 38, 6, 22, 9};
};

double distance(const std::vector<double>& expected, const std::vector<float>& found) {
  double squares = 0, worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    squares += expected[i] * expected[i];
    worst = std::max(worst, std::abs(expected[i] - static_cast<double>(found[i])));
  }
  return worst / std::sqrt(squares / static_cast<double>(expected.size()));
}

// Of the logits; adapters stand in BF16, and beside tiles their activations do too.
double tolerance() { return std::string_view(kernels::kernels().isa) == "amx" ? 6e-2 : 2e-2; }

TEST_F(LoraTest, GivesWhatTheMergedWeightsGive) {
  const TinySpec specs[] = {{},
                            {.architecture = "qwen2", .halves = true, .qkv_bias = true},
                            {.architecture = "phi3", .halves = true, .fused = true}};
  for (const TinySpec& spec : specs) {
    const TinyModel tiny(spec);
    LoadedModel model = open(tiny);
    const std::vector<Low> lows = lows_of(spec, 4, 77);
    write_peft(room / "plain", lows, peft_config(4, 6));
    write_peft(room / "stable", lows, peft_config(4, 3, /*rslora=*/true));
    write_gguf(room / "a.gguf", lows, 6, spec.architecture);
    TinyModel merged = tiny;
    for (const Low& low : lows) merged.add_low_rank(low.name + ".weight", low.a, low.b, low.rank, 1.5);
    const std::vector<double> expected = merged.logits(tokens).back(), base = tiny.logits(tokens).back();
    std::vector<std::vector<float>> found;
    for (const char* name : {"plain", "stable", "a.gguf"}) {
      const auto one = adapter(model, name);
      ASSERT_NE(one, nullptr);
      found.push_back(logits_of(model, {{tokens, one.get()}})[0]);
      EXPECT_LT(distance(expected, found.back()), tolerance()) << spec.architecture << " " << name;
    }
    EXPECT_EQ(found[0], found[1]);
    EXPECT_EQ(found[0], found[2]);
    EXPECT_GT(distance(base, found[0]), 0.1);
    EXPECT_LT(distance(base, logits_of(model, {{tokens}})[0]), tolerance());
  }
}

// Of the logits beside those of merged weights, where adapters stand beside a matrix's codes as int8.
TEST_F(LoraTest, BesideQuantizedWeightsItIsAlmostWhatTheMergedWeightsGive) {
  const TinySpec spec{.width = 64, .hidden = 96, .type = kernels::Type::q8_0};
  const TinyModel tiny(spec);
  LoadedModel model = open(tiny);
  const std::vector<Low> lows = lows_of(spec, 5, 77);
  write_peft(room / "a", lows, peft_config(5, 5));
  TinyModel merged = tiny;
  for (const Low& low : lows) merged.add_low_rank(low.name + ".weight", low.a, low.b, low.rank, 1);
  const std::vector<double> expected = merged.logits(tokens).back(), base = tiny.logits(tokens).back();
  const auto one = adapter(model, "a");
  ASSERT_NE(one, nullptr);
  const std::vector<float> found = logits_of(model, {{tokens, one.get()}})[0];
  EXPECT_LT(distance(expected, found), 6e-2);
  EXPECT_GT(distance(base, found), 0.3);
}

class LoraRowsTest : public LoraTest, public testing::WithParamInterface<kernels::Type> {};
INSTANTIATE_TEST_SUITE_P(Types, LoraRowsTest,
                         testing::Values(kernels::Type::f32, kernels::Type::bf16, kernels::Type::q4_0),
                         [](const auto& info) { return std::string(kernels::type_info(info.param).name); });

TEST_P(LoraRowsTest, ManyAdaptersShareAStepAndRowsKeepTheirBits) {
  const TinySpec spec{.layers = 3, .hidden = 64, .type = GetParam()};
  LoadedModel model = open(TinyModel(spec));
  std::vector<std::shared_ptr<const Adapter>> adapters{nullptr};
  for (int i = 0; i < 5; ++i) {
    const int rank = 1 << i;
    const std::string name = "a" + std::to_string(i);
    write_peft(room / name, lows_of(spec, rank, 100u * static_cast<unsigned>(i), i == 3 ? "attn_v" : ""),
               peft_config(rank, 2 * rank));
    adapters.push_back(adapter(model, name));
  }
  std::vector<Row> rows;
  std::vector<std::vector<float>> alone;
  for (int i = 0; i < 23; ++i) {
    Row row{.adapter = adapters[static_cast<std::size_t>(i * 5 % 6)].get()};
    for (int t = 0; t <= i * 7 % 20; ++t) row.tokens.push_back((i + t * 11) % 40);
    alone.push_back(logits_of(model, {row})[0]);
    rows.push_back(std::move(row));
  }
  EXPECT_EQ(logits_of(model, rows), alone);
}

TEST_F(LoraTest, MergingGivesAModelOfItsOwn) {
  for (const char* from : {"hf", "base.gguf"}) {
    const TinySpec spec;
    const TinyModel tiny(spec);
    LoadedModel model = open(tiny);
    write_tiny_folder(tiny, room / "hf");
    const std::vector<Low> lows = lows_of(spec, 3, 5);
    write_peft(room / "a", lows, peft_config(3, 6));
    auto out = NewFile::create(room / "merged.gguf", /*replace=*/true);
    ASSERT_TRUE(out);
    const auto facts = convert_model(room / from, {room / "a"}, [](auto, auto, auto) { return Status(); }, *out);
    ASSERT_TRUE(facts) << facts.error().message;
    EXPECT_EQ(facts->merged, 14);
    ASSERT_TRUE(out->commit());
    auto merged = load(room / "merged.gguf", {}, pool);
    ASSERT_TRUE(merged) << merged.error().message;
    const auto one = adapter(model, "a");
    const std::vector<float> beside = logits_of(model, {{tokens, one.get()}})[0];
    EXPECT_LT(distance({beside.begin(), beside.end()}, logits_of(*merged, {{tokens}})[0]), tolerance());
  }
}

TEST_F(LoraTest, WhatIsNoAdapterOfThisModelIsRefusedInASentence) {
  const TinySpec spec;
  LoadedModel model = open(TinyModel(spec));
  const std::vector<Low> lows = lows_of(spec, 2, 1);
  write_peft(room / "wide", lows_of({.width = 64}, 2, 1), peft_config(2, 4));
  EXPECT_THAT(refusal(model, "wide"), HasSubstr("is for another base"));
  write_peft(room / "deep", lows_of({.layers = 3}, 2, 1), peft_config(2, 4));
  EXPECT_THAT(refusal(model, "deep"), HasSubstr("is for another base"));
  write_peft(room / "fused", lows_of({.architecture = "phi3", .fused = true}, 2, 1), peft_config(2, 4));
  EXPECT_THAT(refusal(model, "fused"), HasSubstr("is for another base"));
  write_gguf(room / "other.gguf", lows, 4, "qwen2");
  EXPECT_THAT(refusal(model, "other.gguf"), HasSubstr("its architecture is 'qwen2', this model's 'llama'"));
  EXPECT_THAT(refusal(model, "base.gguf"), HasSubstr("is no LoRA adapter"));
  EXPECT_THAT(refusal(model, "nowhere"), HasSubstr("nowhere"));
  write_peft(room / "rank", lows, peft_config(3, 4));
  EXPECT_THAT(refusal(model, "rank"), HasSubstr("says rank 3"));
  for (const char* text : {"", "[]", R"({"peft_type": "IA3"})", R"({"peft_type": "LORA", "r": 2})",
                           R"({"peft_type": "LORA", "r": 2, "lora_alpha": 0})",
                           R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": true})",
                           R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "all"})",
                           R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "modules_to_save": ["lm_head"]})"}) {
    write_peft(room / "config", lows, text);
    EXPECT_THAT(refusal(model, "config"), HasSubstr("adapter_config.json")) << text;
  }
  std::vector<Low> broken = lows;
  broken[3].b[1] = std::nanf("");
  write_peft(room / "nan", broken, peft_config(2, 4));
  EXPECT_THAT(refusal(model, "nan"), HasSubstr("not finite"));
  write_peft(room / "pickle", lows, peft_config(2, 4));
  fs::rename(room / "pickle/adapter_model.safetensors", room / "pickle/adapter_model.bin");
  EXPECT_THAT(refusal(model, "pickle"), HasSubstr("pickled"));
}

TEST_F(LoraTest, RanksAndAlphasMayDifferByModule) {
  const TinySpec spec{.layers = 1};
  const TinyModel tiny(spec);
  LoadedModel model = open(tiny);
  std::vector<Low> lows = lows_of(spec, 2, 1, "attn_v");
  const std::vector<Low> more = lows_of(spec, 4, 9, "ffn_down");
  lows.insert(lows.end(), more.begin(), more.end());
  write_peft(room / "a", lows,
             R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "rank_pattern": {"mlp.down_proj": 4},
                 "alpha_pattern": {"down_proj": 12}})");
  TinyModel merged = tiny;
  merged.add_low_rank("blk.0.attn_v.weight", lows[0].a, lows[0].b, 2, 1);
  merged.add_low_rank("blk.0.ffn_down.weight", lows[1].a, lows[1].b, 4, 3);
  const auto one = adapter(model, "a");
  EXPECT_LT(distance(merged.logits(tokens).back(), logits_of(model, {{tokens, one.get()}})[0]), tolerance());
}

}  // namespace
}  // namespace ashlar::models
