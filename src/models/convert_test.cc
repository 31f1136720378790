#include "models/convert.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "models/loader.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = "../shared/data/models/stories260K/hf";
const fs::path kReference = "../shared/data/models/stories260K/stories260K-f32.gguf";

class ConvertTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kFolder)) GTEST_SKIP() << "no shared data";
    fs::create_directories(room);
    fs::copy(kFolder, room / "hf");
    for (const auto& entry : fs::directory_iterator(room / "hf"))
      fs::permissions(entry, fs::perms::owner_all, fs::perm_options::add);
    fs::permissions(room / "hf", fs::perms::owner_all, fs::perm_options::add);
  }
  void TearDown() override { fs::remove_all(room); }

  // The error; empty: it was written.
  std::string convert() {
    auto out = NewFile::create(room / "out.gguf", /*replace=*/true);
    EXPECT_TRUE(out.has_value());
    const auto facts = convert_model(room / "hf", {}, [](auto, auto, auto) { return Status(); }, *out);
    if (!facts) return facts.error().message;
    EXPECT_TRUE(out->commit().has_value());
    return "";
  }
  std::string text(const std::string& name) {
    std::ifstream file(room / "hf" / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const std::string& name, std::string_view text) {
    std::ofstream(room / "hf" / name, std::ios::binary) << text;
  }
  void replace_in_config(std::string_view from, std::string_view to) {
    std::string config = text("config.json");
    const std::size_t at = config.find(from);
    ASSERT_NE(at, std::string::npos);
    write("config.json", config.replace(at, from.size(), to));
  }

  fs::path room = fs::temp_directory_path() / ("ashlar_convert_" + std::to_string(getpid()));
};

TEST_F(ConvertTest, GivesTheTensorsOfThePublishedFile) {
  ASSERT_EQ(convert(), "");
  const auto ours = gguf::File::open(room / "out.gguf"), theirs = gguf::File::open(kReference);
  ASSERT_TRUE(ours && theirs);
  for (const gguf::Tensor& expected : theirs->tensors()) {
    const gguf::Tensor* found = ours->find_tensor(expected.name);
    if (found == nullptr && expected.name == "output.weight") continue;  // tied: the embedding once more
    ASSERT_NE(found, nullptr) << expected.name;
    EXPECT_EQ(gguf::dims_text(*found), gguf::dims_text(expected)) << expected.name;
    EXPECT_TRUE(std::ranges::equal(found->data, expected.data)) << expected.name;
  }
}

TEST_F(ConvertTest, TheFileLoadsAndHasTheSameTokenizer) {
  ASSERT_EQ(convert(), "");
  ThreadPool pool(1);
  const auto ours = load(room / "out.gguf", {}, pool), theirs = load(kReference, {.weights = false}, pool);
  ASSERT_TRUE(ours && theirs) << (ours ? theirs : ours).error().message;
  ASSERT_NE(ours->model, nullptr);
  EXPECT_EQ(ours->shape.context, theirs->shape.context);
  const auto a = text::Tokenizer::create(ours->vocabulary), b = text::Tokenizer::create(theirs->vocabulary);
  ASSERT_TRUE(a && b);
  const std::string text = "Once upon a time, there was a little girl named Lily.\n 123 \xE6\xBC\xA2";
  EXPECT_EQ((*a)->encode(text), (*b)->encode(text));
  EXPECT_EQ(ours->vocabulary.eos, theirs->vocabulary.eos);
}

TEST_F(ConvertTest, AFolderThatContradictsItselfIsRefused) {
  replace_in_config("\"intermediate_size\": 172", "\"intermediate_size\": 176");
  EXPECT_NE(convert().find("172"), std::string::npos);
  EXPECT_FALSE(fs::exists(room / "out.gguf"));
  replace_in_config("\"intermediate_size\": 176", "\"intermediate_size\": 172");
  replace_in_config("\"num_hidden_layers\": 5", "\"num_hidden_layers\": 6");
  EXPECT_NE(convert().find("missing"), std::string::npos);
  replace_in_config("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 4");
  EXPECT_NE(convert(), "");
  replace_in_config("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5");
  replace_in_config("\"num_attention_heads\": 8", "\"num_attention_heads\": 4");
  EXPECT_NE(convert(), "");
}

TEST_F(ConvertTest, WhatIsMissingOrCutIsRefused) {
  const std::string weights = text("model.safetensors"), tokens = text("tokenizer.model");
  for (const std::size_t n :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, weights.size() / 2, weights.size() - 1}) {
    write("model.safetensors", std::string_view(weights).substr(0, n));
    EXPECT_NE(convert(), "") << n;
  }
  write("model.safetensors", weights);
  write("tokenizer.model", std::string_view(tokens).substr(0, tokens.size() / 2));
  EXPECT_NE(convert(), "");
  fs::remove(room / "hf/tokenizer.model");
  EXPECT_NE(convert().find("there is no vocabulary"), std::string::npos);
  write("tokenizer.model", tokens);
  fs::remove(room / "hf/config.json");
  EXPECT_NE(convert().find("config.json"), std::string::npos);
  EXPECT_FALSE(fs::exists(room / "out.gguf"));
}

}  // namespace
}  // namespace ashlar::models
