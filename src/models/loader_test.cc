#include "models/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "models/tiny_model_test.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using testing::AllOf;
using testing::HasSubstr;

class Loader : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(std::string_view name = "m.gguf") const { return folder_ / name; }
  // What load() says of a file.
  std::string refusal(const gguf::Writer& writer) {
    EXPECT_TRUE(writer.write(path()));
    const auto loaded = load(path(), {}, pool_);
    return loaded ? "fine" : loaded.error().message;
  }
  std::string refusal(const std::string& bytes) {
    std::ofstream(path(), std::ios::binary) << bytes;
    const auto loaded = load(path(), {}, pool_);
    return loaded ? "fine" : loaded.error().message;
  }

  ThreadPool pool_{1};
  fs::path folder_ = fs::temp_directory_path() / ("ashlar_loader_" + std::to_string(::getpid()));
  std::vector<std::byte> zeros_ = std::vector<std::byte>(1 << 16);
};

// `bytes` with the first `from` replaced by `to`, of the same length.
std::string replaced(std::string bytes, std::string_view from, std::string_view to) {
  const auto at = bytes.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return bytes.replace(at, from.size(), to);
}

TEST_F(Loader, TellsTheFactsOfAFile) {
  const TinyModel tiny({.type = kernels::Type::q8_0, .mixed = true});
  ASSERT_TRUE(tiny.writer().write(path("tiny-llama.gguf")));
  const auto loaded = load(path("tiny-llama.gguf"), {.weights = false}, pool_);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->model, nullptr);
  EXPECT_EQ(loaded->facts.name, "tiny-llama");
  EXPECT_EQ(loaded->facts.architecture, "llama");
  EXPECT_EQ(loaded->shape.layers, 2);
  EXPECT_EQ(loaded->shape.vocabulary, 40);
  EXPECT_EQ(loaded->facts.type_bytes.size(), 2u);
  EXPECT_EQ(loaded->facts.bytes.count, fs::file_size(path("tiny-llama.gguf")));
}

TEST_F(Loader, LoadsSplitModels) {
  const TinyModel tiny({});
  ASSERT_TRUE(tiny.writer().write_split(path("split"), 4));
  const auto loaded = load(path("split-00003-of-00004.gguf"), {}, pool_);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_NE(loaded->model, nullptr);
}

TEST_F(Loader, LoadsVocabulariesAlone) {
  const fs::path file = "../shared/data/tokenizers/gguf/ggml-vocab-gpt-2.gguf";
  if (!fs::exists(file)) GTEST_SKIP() << "no shared data";
  const auto loaded = load(file, {}, pool_);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->model, nullptr);
  EXPECT_EQ(loaded->shape.vocabulary, 50257);
  EXPECT_EQ(loaded->vocabulary.tokens.size(), 50257u);
}

TEST_F(Loader, NamesTheTensorThatDoesNotFit) {
  const std::string good = TinyModel({}).writer().bytes().value();
  EXPECT_EQ(refusal(good), "fine");
  EXPECT_THAT(refusal(replaced(good, "blk.1.attn_k.weight", "blk.1.attn_x.weight")),
              HasSubstr("tensor 'blk.1.attn_k.weight' is missing; [32, 16] is expected"));
  EXPECT_THAT(refusal(replaced(good, "output_norm.weight", "output_gorm.weight")),
              HasSubstr("tensor 'output_norm.weight' is missing"));
  const TinyModel tiny({});  // its tensors are borrowed by the writer
  gguf::Writer more = tiny.writer();
  more.add_tensor("blk.0.ffn_gate_inp.weight", kernels::Type::f32, {4}, std::span(zeros_).first(16));
  EXPECT_THAT(refusal(more), HasSubstr("tensor 'blk.0.ffn_gate_inp.weight' has no place in this architecture"));
  EXPECT_THAT(refusal(TinyModel({.architecture = "qwen2"}).writer()),
              HasSubstr("tensor 'blk.0.attn_q.bias' is missing; [32] is expected"));
  EXPECT_THAT(refusal(TinyModel({.architecture = "qwen3", .qkv_bias = true, .head_norms = true}).writer()),
              HasSubstr("tensor 'blk.0.attn_q.bias' has no place"));
}

TEST_F(Loader, NamesTheTensorOfWrongDims) {
  gguf::Writer writer;
  const auto size = [&](std::string_view key, std::uint32_t value) { writer.add("llama." + std::string(key), value); };
  writer.add("general.architecture", "llama");
  size("block_count", 1), size("embedding_length", 32), size("feed_forward_length", 32), size("context_length", 8);
  size("attention.head_count", 4);
  writer.add("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  writer.add_tensor("token_embd.weight", kernels::Type::f32, {32, 5}, std::span(zeros_).first(640));
  writer.add_tensor("blk.0.attn_norm.weight", kernels::Type::q8_0, {32}, std::span(zeros_).first(34));
  EXPECT_THAT(refusal(writer),
              HasSubstr("tensor 'blk.0.attn_norm.weight' has type Q8_0; F32, F16 or BF16 is expected"));
  gguf::Writer narrow;
  narrow = writer;
  size("attention.key_length", 8);
  narrow.add_tensor("rope_freqs.weight", kernels::Type::f32, {3}, std::span(zeros_).first(12));
  EXPECT_THAT(refusal(narrow), HasSubstr("tensor 'rope_freqs.weight' is [3]; [4] is expected"));
}

TEST_F(Loader, RefusesKeysThatMakeNoModel) {
  const std::string good = TinyModel({.context = 0x01020304}).writer().bytes().value();
  const auto with = [&](std::string_view key, std::uint32_t value) {
    std::string bytes = good;
    const auto at = bytes.find(key);
    EXPECT_NE(at, std::string::npos);
    return bytes.replace(at + key.size() + 4, 4, reinterpret_cast<const char*>(&value), 4);
  };
  EXPECT_THAT(refusal(with("llama.block_count", 0)), HasSubstr("key 'llama.block_count' is 0; 1 to 1024 are possible"));
  EXPECT_THAT(refusal(with("llama.embedding_length", ~0u)), HasSubstr("'llama.embedding_length' is 4294967295"));
  EXPECT_THAT(refusal(with("attention.head_count_kv", 3)), HasSubstr("is 3, which does not divide 4 heads"));
  EXPECT_THAT(refusal(with("rope.dimension_count", 7)), HasSubstr("is 7; an even number up to the head's 8"));
  EXPECT_THAT(refusal(with("layer_norm_rms_epsilon", 0)), HasSubstr("is 0; a finite number above 0"));
  EXPECT_THAT(refusal(with("rope.freq_base", 0x7FC00000)), HasSubstr("is nan; a finite number above 0"));
  EXPECT_THAT(refusal(replaced(good, "llama.block_count", "llama.block_xount")),
              HasSubstr("key 'llama.block_count' is missing"));
  EXPECT_THAT(refusal(replaced(good, "\x05\0\0\0\0\0\0\0llama"s, "\x05\0\0\0\0\0\0\0mamba"s)),
              AllOf(HasSubstr("the architecture 'mamba' is not supported; "), HasSubstr(", llama, ")));
  EXPECT_THAT(refusal(std::string("GGUF")), HasSubstr("the file ends"));
  EXPECT_EQ(load(path("none.gguf"), {}, pool_).error().code, Code::not_found);
}

TEST_F(Loader, RefusesWhatAnArchitectureDoesNotTake) {
  const TinySpec granite{.architecture = "granite", .attention_scale = 0.5};
  const TinyModel tiny(granite);  // its tensors are borrowed by the writers
  EXPECT_EQ(refusal(tiny.writer()), "fine");
  gguf::Writer unturned = tiny.writer();
  unturned.add("granite.rope.scaling.finetuned", false);
  EXPECT_THAT(refusal(unturned), HasSubstr("'granite.rope.scaling.finetuned' is false; models without rotary"));
  TinySpec silent = granite;
  silent.logit_divisor = 0;
  EXPECT_THAT(refusal(TinyModel(silent).writer()), HasSubstr("'granite.logit_scale' is 0"));
  silent.logit_divisor = 1e9;
  EXPECT_THAT(refusal(TinyModel(silent).writer()), HasSubstr("'granite.logit_scale' is 1000000000; 1e-6 to 1e6"));
  const TinySpec gemma3{.architecture = "gemma3", .head_norms = true, .full_every = 6, .post_norms = true};
  EXPECT_THAT(refusal(TinyModel(gemma3).writer()), HasSubstr("'gemma3.attention.sliding_window' is missing"));
  TinySpec windows = gemma3;
  windows.window = 4;
  const TinyModel seeing(windows);
  gguf::Writer capped = seeing.writer();
  EXPECT_EQ(refusal(capped), "fine");
  capped.add("gemma3.final_logit_softcapping", 30.0f);
  EXPECT_THAT(refusal(capped), HasSubstr("'gemma3.final_logit_softcapping' is 30; capped logits are not supported"));
  const TinyModel phi3({.architecture = "phi3", .fused = true});
  gguf::Writer unstretched = phi3.writer();
  unstretched.add("phi3.rope.scaling.original_context_length", std::uint32_t{16});
  EXPECT_THAT(refusal(unstretched), HasSubstr("tensor 'rope_factors_long.weight' is missing; [4] is expected"));
}

TEST_F(Loader, RefusesWeightsThatAreNotFinite) {
  std::string bytes = TinyModel({}).writer().bytes().value();
  const auto file = gguf::File::in_memory({reinterpret_cast<const std::byte*>(bytes.data()),
                                           reinterpret_cast<const std::byte*>(bytes.data()) + bytes.size()},
                                          "m");
  const auto data = file->find_tensor("output_norm.weight")->data;
  const auto begin = bytes.find(std::string(reinterpret_cast<const char*>(data.data()), data.size()));
  bytes.replace(begin, 4, "\xff\xff\xff\x7f", 4);
  EXPECT_THAT(refusal(bytes), HasSubstr("tensor 'output_norm.weight' holds a value that is not finite"));
}

TEST_F(Loader, EveryTruncationIsAnError) {
  const std::string good = TinyModel({.layers = 1, .width = 8, .hidden = 8, .heads = 1, .kv_heads = 1, .vocabulary = 4})
                               .writer()
                               .bytes()
                               .value();
  ASSERT_EQ(refusal(good), "fine");
  for (std::size_t size = 0; size < good.size(); size += 7) EXPECT_NE(refusal(good.substr(0, size)), "fine") << size;
}

}  // namespace
}  // namespace ashlar::models
