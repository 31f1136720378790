// Tokenizers of Hugging Face folders against the published vectors of the same families, and against the GGUF files
// of the same vocabularies.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "models/formats/hf_vocabulary.h"
#include "models/formats/sentencepiece_model.h"
#include "models/formats/tokenizer_json.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using text::TokenId;
using text::Tokenizer;

const fs::path kData = "../shared/data/tokenizers";

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::shared_ptr<const Tokenizer> made(Result<text::Vocabulary> vocabulary) {
  EXPECT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  if (!vocabulary) return nullptr;
  auto tokenizer = Tokenizer::create(std::move(*vocabulary));
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return tokenizer ? *tokenizer : nullptr;
}

std::shared_ptr<const Tokenizer> of_folder(const fs::path& folder) {
  auto text = models::read_folder_text(folder);
  EXPECT_TRUE(text.has_value()) << text.error().message;
  return text ? made(std::move(text->vocabulary)) : nullptr;
}

// Ids as the vectors of `family` have them, one line per input.
void expect_vectors(const Tokenizer& tokenizer, const std::string& family) {
  const fs::path file = kData / "vectors" / ("ggml-vocab-" + family + ".gguf.inp");
  const std::string inputs = contents(file), separator = "\n__ggml_vocab_test__\n";
  std::istringstream outputs(contents(fs::path(file).replace_extension(".out")));
  int count = 0;
  std::size_t at = 0;
  for (std::string line; at <= inputs.size() && std::getline(outputs, line); ++count) {
    const std::size_t end = std::min(inputs.find(separator, at), inputs.size());
    std::istringstream numbers(line);
    const std::vector<TokenId> expected{std::istream_iterator<TokenId>(numbers), {}};
    EXPECT_EQ(tokenizer.encode(inputs.substr(at, end - at), {.add_special = false}), expected)
        << family << " " << count;
    at = end + separator.size();
  }
  EXPECT_GT(count, 40);
}

TEST(FolderTokenizer, Phi3ByItsMergesGivesTheVectors) {
  if (!fs::exists(kData)) GTEST_SKIP() << "no shared data";
  const auto tokenizer = of_folder(kData / "hf/phi-3-mini");
  ASSERT_NE(tokenizer, nullptr);
  expect_vectors(*tokenizer, "phi-3");
  const text::Vocabulary& v = tokenizer->vocabulary();
  EXPECT_EQ(v.eos, 32000);
  EXPECT_FALSE(v.add_bos);
  EXPECT_TRUE(tokenizer->is_end(tokenizer->find("<|end|>")));
}

TEST(FolderTokenizer, Llama2ByItsSentencePieceModelGivesTheVectors) {
  if (!fs::exists(kData)) GTEST_SKIP() << "no shared data";
  const auto tokenizer = of_folder(kData / "llama2");
  ASSERT_NE(tokenizer, nullptr);
  expect_vectors(*tokenizer, "llama-spm");
  EXPECT_EQ(tokenizer->encode("Hello"), (std::vector<TokenId>{1, 15043}));
}

TEST(FolderTokenizer, Qwen3ByVocabAndMergesGivesTheVectors) {
  if (!fs::exists(kData)) GTEST_SKIP() << "no shared data";
  const auto tokenizer = of_folder(kData / "hf/qwen3");
  ASSERT_NE(tokenizer, nullptr);
  expect_vectors(*tokenizer, "qwen2");
  EXPECT_EQ(tokenizer->encode("<|im_start|>", {.add_special = false, .parse_special = true}),
            std::vector<TokenId>{151644});
  EXPECT_TRUE(tokenizer->is_end(151645));
  const auto text = models::read_folder_text(kData / "hf/qwen3");
  EXPECT_NE(text->templates.source.find("im_start"), std::string::npos);
}

TEST(FolderTokenizer, MiniLmByWordPieceGivesTheVectors) {
  if (!fs::exists(kData)) GTEST_SKIP() << "no shared data";
  const auto tokenizer = of_folder(kData / "hf/all-minilm-l6-v2/all-MiniLM-L6-v2");
  ASSERT_NE(tokenizer, nullptr);
  expect_vectors(*tokenizer, "bert-bge");
  const auto ids = tokenizer->encode("hello world");
  EXPECT_EQ(ids, (std::vector<TokenId>{101, 7592, 2088, 102}));
}

TEST(FolderTokenizer, GraniteComesBackWhole) {
  if (!fs::exists(kData)) GTEST_SKIP() << "no shared data";
  const auto tokenizer = of_folder(kData / "hf/granite-3.1-moe");
  ASSERT_NE(tokenizer, nullptr);
  const std::string text = "def f(x):\n    return 2 ** x  # 漢字 и 42\n";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  EXPECT_TRUE(tokenizer->is_end(0));
}

// Every beginning of a file is refused or is a tokenizer that works; nothing else happens.
TEST(FolderTokenizer, CutFilesAreRefused) {
  if (!fs::exists(kData)) GTEST_SKIP() << "no shared data";
  const std::string model = contents(kData / "llama2/tokenizer.model");
  for (std::size_t n = 0; n < model.size(); n += n < 2000 ? 1 : 9973) {
    const auto read = models::read_sentencepiece_model(std::string_view(model).substr(0, n), "cut");
    if (read) {
      EXPECT_FALSE(read->tokens.empty());
    }
  }
  const std::string json = contents(kData / "hf/phi-3-mini/tokenizer.json");
  for (std::size_t n = 0; n < json.size(); n += n < 2000 ? 7 : 99'991)
    EXPECT_FALSE(models::read_tokenizer_json(std::string_view(json).substr(0, n), "cut").has_value()) << n;
}

std::string error_of(std::string_view json) {
  const auto read = models::read_tokenizer_json(json, "t");
  return read ? "" : read.error().message;
}

TEST(FolderTokenizer, WhatNoFamilyHasIsRefusedByName) {
  EXPECT_NE(error_of(R"({"model": {"type": "WordLevel", "vocab": {"a": 0}}})").find("WordLevel"), std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
      "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}})")
                .find("split x+"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
      "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Metaspace"}})")
                .find("Lowercase"),
            std::string::npos);
}

TEST(FolderTokenizer, IdsThatContradictEachOtherAreRefused) {
  EXPECT_NE(error_of(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}}})").find("two tokens"), std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"type": "BPE", "vocab": {"a": 9000000}}})").find("ids reach"), std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"type": "BPE", "vocab": {"a": 0}},
      "added_tokens": [{"id": 0, "content": "b"}]})")
                .find("has the id"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"type": "BPE", "vocab": {}}})").find("no vocabulary"), std::string::npos);
  EXPECT_NE(error_of(R"({"model": {"type": "BPE", "vocab": [["a"]]}})"), "");
  EXPECT_NE(error_of(R"({"model": {"type": "BPE", "vocab": {"a": {}}}})"), "");
  EXPECT_NE(error_of(R"([])"), "");
}

TEST(FolderTokenizer, UnigramAndMetaspaceAreRead) {
  const auto tokenizer = made(models::read_tokenizer_json(R"({
    "added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 4, "content": "</s>", "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}},
      {"SpecialToken": {"id": "</s>"}}]},
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["▁he", -1.5], ["llo", -2], ["▁hello", -9]]}})",
                                                          "t"));
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->encode("hello"), (std::vector<TokenId>{1, 2, 4}));
  EXPECT_EQ(tokenizer->vocabulary().eos, 4);
}

}  // namespace
}  // namespace ashlar
