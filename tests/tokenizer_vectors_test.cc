// The tokenizers against the published vectors: real vocabularies, real expected
// ids (../shared/data/CATALOGUE.md says whose).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>

#include "base/utf8.h"
#include "models/formats/gguf.h"
#include "models/formats/gguf_vocabulary.h"
#include "text/tokenizer.h"

namespace ashlar {
namespace {

namespace fs = std::filesystem;
using text::EncodeOptions;
using text::TokenId;
using text::Tokenizer;

const fs::path kData = "../shared/data/tokenizers";
constexpr EncodeOptions kPlain{.add_special = false, .parse_special = false};

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> split(const std::string& text, std::string_view separator) {
  std::vector<std::string> parts;
  for (std::size_t at = 0;;) {
    const std::size_t end = text.find(separator, at);
    parts.push_back(text.substr(at, end == std::string::npos ? end : end - at));
    if (end == std::string::npos) return parts;
    at = end + separator.size();
  }
}

std::shared_ptr<const Tokenizer> load(const fs::path& path) {
  const auto file = models::gguf::File::open(path);
  EXPECT_TRUE(file.has_value()) << file.error().message;
  auto vocabulary = models::read_vocabulary(*file);
  EXPECT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  auto tokenizer = Tokenizer::create(std::move(*vocabulary));
  EXPECT_TRUE(tokenizer.has_value()) << path << ": " << tokenizer.error().message;
  return *tokenizer;
}

std::vector<std::string> inputs_of(const fs::path& path) { return split(contents(path), "\n__ggml_vocab_test__\n"); }

// What a stream of single tokens gives, all of it checked to be whole characters.
std::string streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  text::StreamDecoder decoder(tokenizer, false, false);
  std::string all;
  for (const TokenId id : ids) {
    const std::string text = decoder.push(id);
    EXPECT_TRUE(utf8::is_valid(text));
    all += text;
  }
  return all + decoder.finish();
}

class Vectors : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kData / "gguf")) GTEST_SKIP() << "no shared data";
    for (const auto& entry : fs::directory_iterator(kData / "gguf")) vocabularies.push_back(entry.path());
    ASSERT_FALSE(vocabularies.empty());
  }
  std::vector<fs::path> vocabularies;
};

TEST_F(Vectors, EveryPublishedInputGivesThePublishedIds) {
  int checked = 0;
  for (const fs::path& path : vocabularies) {
    const fs::path vectors = kData / "vectors" / path.filename();
    if (!fs::exists(vectors.string() + ".inp")) continue;
    const auto tokenizer = load(path);
    const std::vector<std::string> inputs = inputs_of(vectors.string() + ".inp");
    const std::vector<std::string> outputs = split(contents(vectors.string() + ".out"), "\n");
    ASSERT_GE(outputs.size(), inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      std::vector<TokenId> expected;
      std::istringstream numbers(outputs[i]);
      for (TokenId id; numbers >> id;) expected.push_back(id);
      EXPECT_EQ(tokenizer->encode(inputs[i], kPlain), expected) << path << ": " << inputs[i];
      ++checked;
    }
  }
  EXPECT_GT(checked, 0);
}

// The inputs of all families, through every vocabulary, those without vectors too.
TEST_F(Vectors, DecodingGivesTheInputBack) {
  std::vector<std::string> inputs;
  for (const auto& entry : fs::directory_iterator(kData / "vectors"))
    if (entry.path().extension() == ".inp") std::ranges::move(inputs_of(entry.path()), std::back_inserter(inputs));
  std::mt19937 random(20261121);
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (auto n = random() % 60; n > 0; --n) {
      const char32_t code = 0x20 + random() % (random() % 2 == 0 ? 0x5F : 0x10000);
      // Not every vocabulary has the control characters, and U+2581 is a space to some.
      const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
      if (!surrogate && code != 0x7F && code != 0x2581) utf8::append(text, code);
    }
    inputs.push_back(text);
  }
  for (const fs::path& path : vocabularies) {
    const auto tokenizer = load(path);
    if (tokenizer->vocabulary().model == "bert") continue;  // case and accents do not come back
    for (const std::string& input : inputs) {
      const std::vector<TokenId> ids = tokenizer->encode(input, kPlain);
      EXPECT_EQ(tokenizer->decode(ids), input) << path;
      EXPECT_EQ(streamed(*tokenizer, ids), input) << path;
    }
  }
}

TEST_F(Vectors, ArbitraryBytesAreEncodedAndStreamedAsWholeCharacters) {
  std::mt19937 random(5);
  for (const fs::path& path : vocabularies) {
    const auto tokenizer = load(path);
    for (int round = 0; round < 50; ++round) {
      std::string bytes;
      for (auto n = random() % 100; n > 0; --n) bytes += static_cast<char>(random());
      const std::vector<TokenId> ids = tokenizer->encode(bytes, {.add_special = true, .parse_special = true});
      for (const TokenId id : ids) EXPECT_TRUE(id >= 0 && id < tokenizer->size());
      streamed(*tokenizer, ids);
      std::vector<TokenId> any;
      for (auto n = random() % 100; n > 0; --n)
        any.push_back(static_cast<TokenId>(random() % static_cast<unsigned>(tokenizer->size())));
      streamed(*tokenizer, any);
    }
  }
}

// A word of a million letters, and what else takes an unwary algorithm quadratic
// time: this would not end within the test's time limit.
TEST_F(Vectors, NoTextIsSlow) {
  const std::string texts[] = {std::string(100'000, 'a'), std::string(100'000, ' '), std::string(100'000, '\n'),
                               std::string(100'000, '1'), std::string(100'000, '<'), std::string(100'000, '\xFF')};
  for (const fs::path& path : vocabularies) {
    const auto tokenizer = load(path);
    for (const std::string& text : texts)
      EXPECT_LE(tokenizer->encode(text, {.add_special = false, .parse_special = true}).size(), 3 * text.size() + 3);
  }
}

}  // namespace
}  // namespace ashlar
