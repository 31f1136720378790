#include "models/formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>

#include "models/formats/gguf_vocabulary.h"
#include "models/formats/gguf_writer.h"

namespace ashlar::models::gguf {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::vector<std::byte> kZeros(4096);

// A heap copy of exactly the bytes given, so that AddressSanitizer sees a step beyond them.
Result<Part> read(std::string_view bytes, std::unique_ptr<std::byte[]>* keep = nullptr) {
  auto copy = std::make_unique<std::byte[]>(bytes.size());
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  auto part = read_part({copy.get(), bytes.size()}, "test.gguf");
  if (keep != nullptr) *keep = std::move(copy);
  return part;
}

std::string message(std::string_view bytes) {
  const auto part = read(bytes);
  return part ? "no error" : part.error().message;
}

// A file assembled by hand, so that it can be wrong.
struct Raw {
  std::string bytes = "GGUF";
  Raw& u32(std::uint32_t v) { return put(v); }
  Raw& u64(std::uint64_t v) { return put(v); }
  Raw& text(std::string_view v) {
    u64(v.size());
    bytes += v;
    return *this;
  }
  Raw& header(std::uint64_t tensors, std::uint64_t keys) { return u32(3).u64(tensors).u64(keys); }
  Raw& tensor(std::string_view name, std::vector<std::uint64_t> dims, std::uint32_t type, std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(dims.size()));
    for (const auto dim : dims) u64(dim);
    return u32(type).u64(offset);
  }
  Raw& data(std::size_t count) {
    bytes.append((32 - bytes.size() % 32) % 32 + count, '\0');
    return *this;
  }

 private:
  template <class T>
  Raw& put(T v) {
    bytes.append(reinterpret_cast<const char*>(&v), sizeof v);
    return *this;
  }
};

std::string sample() {
  Writer writer;
  writer.add("general.architecture", "llama");
  writer.add("llama.block_count", std::uint32_t{2});
  writer.add("a.bool", true);
  writer.add("a.float", 1.5f);
  writer.add("a.big", std::uint64_t{1} << 63);
  writer.add("a.negative", std::int32_t{-7});
  const std::vector<std::string> words{"one", "", "three"};
  writer.add("a.words", words);
  const std::vector<float> floats{1, 2, 3};
  writer.add("a.floats", floats);
  writer.add_tensor("first", kernels::Type::f32, {4, 2}, std::span(kZeros).first(32));
  writer.add_tensor("second", kernels::Type::q4_0, {32, 3, 2}, std::span(kZeros).first(108));
  return writer.bytes().value();
}

TEST(Gguf, ReadsWhatTheWriterWrote) {
  std::unique_ptr<std::byte[]> keep;
  const auto part = read(sample(), &keep);
  ASSERT_TRUE(part) << part.error().message;
  ASSERT_EQ(part->keys.size(), 8u);
  EXPECT_EQ(part->keys[0].value.string(), "llama");
  EXPECT_EQ(part->keys[1].value.integer(), 2);
  EXPECT_EQ(part->keys[1].value.string(), std::nullopt);
  EXPECT_EQ(part->keys[2].value.boolean(), true);
  EXPECT_EQ(part->keys[3].value.number(), 1.5);
  EXPECT_EQ(part->keys[4].value.integer(), std::nullopt);
  EXPECT_EQ(part->keys[4].value.number(), 9223372036854775808.0);
  EXPECT_EQ(part->keys[5].value.integer(), -7);
  std::vector<std::string> words;
  Value element;
  for (Elements elements(part->keys[6].value); elements.next(element);) words.emplace_back(*element.string());
  EXPECT_THAT(words, testing::ElementsAre("one", "", "three"));
  ASSERT_EQ(part->tensors.size(), 2u);
  EXPECT_EQ(dims_text(part->tensors[1]), "[32, 3, 2]");
  EXPECT_EQ(part->tensors[1].rows(), 6);
  EXPECT_EQ(part->tensors[1].data.size(), 108u);
}

TEST(Gguf, TruncationAnywhereIsAnErrorOrChangesNothing) {
  const std::string whole = sample();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    std::unique_ptr<std::byte[]> keep;
    const auto part = read(std::string_view(whole).substr(0, size), &keep);
    if (!part) {
      EXPECT_THAT(part.error().message, HasSubstr("test.gguf")) << size;
      continue;
    }
    // Only the padding after the last tensor may be missing.
    EXPECT_GE(size, whole.size() - 31);
    EXPECT_EQ(part->tensors.size(), 2u);
  }
}

TEST(Gguf, EveryFlippedByteIsSurvived) {
  const std::string whole = sample();
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int mask : {0x01, 0x80, 0xFF}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ mask);
      (void)read(bytes);
    }
  }
}

TEST(Gguf, SaysWhatIsWrongAndWhere) {
  EXPECT_THAT(message("GGML1234"), HasSubstr("not a GGUF file"));
  EXPECT_THAT(message(Raw().u32(1).bytes), HasSubstr("version 1"));
  EXPECT_THAT(message(Raw().u32(0x03000000).bytes), HasSubstr("big-endian"));
  EXPECT_THAT(message(Raw().header(1ull << 60, 0).bytes), HasSubstr("cannot stand"));
  EXPECT_THAT(message(Raw().header(0, ~0ull).bytes), HasSubstr("cannot stand"));
  const std::string room(64, '\0');
  EXPECT_THAT(message(Raw().header(0, 1).u64(~0ull).bytes + room), HasSubstr("a key's name at byte 32"));
  EXPECT_THAT(message(Raw().header(0, 1).text("k").u32(99).bytes + room),
              HasSubstr("key 'k' at byte 37: unknown value type 99"));
  EXPECT_THAT(message(Raw().header(0, 1).text("k").u32(7).bytes + "\x02" + room), HasSubstr("a bool of value 2"));
  EXPECT_THAT(message(Raw().header(0, 1).text("k").u32(9).u32(8).u64(1ull << 62).bytes),
              HasSubstr("an array of 4611686018427387904 string"));
  EXPECT_THAT(message(Raw().header(0, 1).text("k").u32(9).u32(13).u64(1).bytes), HasSubstr("unknown element type 13"));
  EXPECT_THAT(message(Raw().header(0, 2).text("k").u32(4).u32(1).text("k").u32(4).u32(1).bytes),
              HasSubstr("key 'k' appears twice"));
  EXPECT_THAT(message(Raw().header(0, 1).text("general.alignment").u32(4).u32(24).bytes), HasSubstr("power of two"));
  EXPECT_THAT(message(Raw().header(0, 1).text("general.alignment").u32(5).u32(~0u).bytes), HasSubstr("power of two"));
}

TEST(Gguf, SaysWhichTensorIsWrong) {
  const auto one = [](std::vector<std::uint64_t> dims, std::uint32_t type, std::uint64_t offset = 0,
                      std::size_t data = 64) {
    return message(Raw().header(1, 0).tensor("w\n", std::move(dims), type, offset).data(data).bytes);
  };
  EXPECT_EQ(one({4, 4}, 0), "no error");
  EXPECT_THAT(one({}, 0), HasSubstr("0 dimensions"));
  EXPECT_THAT(one({1, 1, 1, 1, 1}, 0), HasSubstr("tensor 'w?'"));
  EXPECT_THAT(one({4, 0}, 0), HasSubstr("dimension 1 is zero"));
  EXPECT_THAT(one({1ull << 32, 1ull << 32}, 0), HasSubstr("multiply to more"));
  EXPECT_THAT(one({~0ull, 1}, 0), HasSubstr("multiply to more"));
  EXPECT_THAT(one({4, 4}, 4), HasSubstr("type 4, which this build does not read"));
  EXPECT_THAT(one({4, 4}, 2), HasSubstr("not whole Q4_0 blocks of 32"));
  EXPECT_THAT(one({4, 4}, 0, 8), HasSubstr("not a multiple of the alignment"));
  EXPECT_THAT(one({4, 4}, 0, 32), HasSubstr("cut short"));
  EXPECT_THAT(one({4, 4}, 0, ~31ull), HasSubstr("cut short"));
  EXPECT_THAT(message(Raw().header(2, 0).tensor("a", {4}, 0, 0).tensor("a", {4}, 0, 32).data(64).bytes),
              HasSubstr("tensor 'a' appears twice"));
  EXPECT_THAT(message(Raw().header(2, 0).tensor("a", {4, 4}, 0, 0).tensor("b", {4}, 0, 32).data(64).bytes),
              HasSubstr("overlaps that of tensor 'a'"));
}

TEST(Gguf, ArraysNestToABound) {
  const auto nested = [](int depth) {
    Raw raw;
    raw.header(0, 1).text("k").u32(9);
    for (int i = 1; i < depth; ++i) raw.u32(9).u64(1);
    return raw.u32(4).u64(2).u32(5).u32(6).bytes;
  };
  EXPECT_EQ(message(nested(kMaxArrayDepth)), "no error");
  EXPECT_THAT(message(nested(kMaxArrayDepth + 1)), HasSubstr("nested"));
  std::unique_ptr<std::byte[]> keep;
  const auto part = read(nested(2), &keep);
  ASSERT_TRUE(part);
  Value inner, number;
  Elements outer(part->keys[0].value);
  ASSERT_TRUE(outer.next(inner));
  EXPECT_EQ(inner.count, 2u);
  Elements numbers(inner);
  ASSERT_TRUE(numbers.next(number) && numbers.next(number));
  EXPECT_EQ(number.integer(), 6);
  EXPECT_FALSE(numbers.next(number) || outer.next(inner));
}

class GgufFiles : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_ = fs::temp_directory_path() / ("ashlar_gguf_" + std::to_string(::getpid()));
};

TEST_F(GgufFiles, SplitModelsOpenByAnyPart) {
  Writer writer;
  writer.add("general.name", "split");
  std::vector<std::string> names;
  for (int i = 0; i < 7; ++i)
    writer.add_tensor(names.emplace_back("t" + std::to_string(i)), kernels::Type::f32, {8},
                      std::span(kZeros).first(32));
  const std::string prefix = folder_ / "m";
  ASSERT_TRUE(writer.write_split(prefix, 3));
  for (int part = 1; part <= 3; ++part) {
    const auto file = File::open(prefix + "-0000" + std::to_string(part) + "-of-00003.gguf");
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->tensors().size(), 7u);
    EXPECT_EQ(file->need<std::string_view>("general.name").value(), "split");
    for (const auto& name : names) EXPECT_NE(file->find_tensor(name), nullptr);
    EXPECT_EQ(file->find_tensor("t"), nullptr);
  }
  fs::rename(prefix + "-00002-of-00003.gguf", prefix + "-2.gguf");
  auto file = File::open(prefix + "-00001-of-00003.gguf");
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, Code::not_found);
  EXPECT_THAT(file.error().message, HasSubstr("m-00002-of-00003.gguf: part 2 of 3"));
  EXPECT_THAT(File::open(prefix + "-2.gguf").error().message, HasSubstr("is not named like"));
  fs::copy(prefix + "-00003-of-00003.gguf", prefix + "-00002-of-00003.gguf");
  EXPECT_THAT(File::open(prefix + "-00001-of-00003.gguf").error().message, HasSubstr("its keys call it part 3 of 3"));
}

TEST_F(GgufFiles, KeysAreReadWithTheirTypeAndRange) {
  const std::string path = folder_ / "keys.gguf";
  Writer writer;
  writer.add("whole", std::uint64_t{1} << 40);
  writer.add("text", "x");
  ASSERT_TRUE(writer.write(path));
  const auto file = File::open(path);
  ASSERT_TRUE(file);
  EXPECT_EQ(file->need<std::int64_t>("whole").value(), std::int64_t{1} << 40);
  EXPECT_THAT(file->need<std::int32_t>("whole").error().message, HasSubstr("out of range"));
  EXPECT_THAT(file->get<bool>("text", false).error().message,
              HasSubstr("key 'text' is of type string; a bool is expected"));
  EXPECT_THAT(file->need<double>("none").error().message, HasSubstr("key 'none' is missing"));
  EXPECT_EQ(file->get<double>("none", 2.5).value(), 2.5);
}

TEST_F(GgufFiles, VocabulariesContradictingThemselvesAreRefused) {
  const std::string path = folder_ / "vocabulary.gguf";
  const auto refusal = [&](auto fill) {
    Writer writer;
    writer.add("tokenizer.ggml.model", "gpt2");
    const std::vector<std::string> tokens{"a", "b", "<|im_end|>"};
    writer.add("tokenizer.ggml.tokens", tokens);
    fill(writer);
    EXPECT_TRUE(writer.write(path));
    const auto file = File::open(path);
    EXPECT_TRUE(file);
    const auto vocabulary = read_vocabulary(*file);
    return vocabulary ? "fine" : vocabulary.error().message;
  };
  EXPECT_EQ(refusal([](Writer&) {}), "fine");
  EXPECT_THAT(refusal([](Writer& w) { w.add("tokenizer.ggml.scores", std::vector<float>{1}); }),
              HasSubstr("has 1 entries for 3 tokens"));
  EXPECT_THAT(refusal([](Writer& w) { w.add("tokenizer.ggml.token_type", std::vector<std::int32_t>{1, 1, 9}); }),
              HasSubstr("at index 2"));
  EXPECT_THAT(refusal([](Writer& w) { w.add("tokenizer.ggml.bos_token_id", std::uint32_t{3}); }),
              HasSubstr("is 3; the vocabulary has 3 tokens"));
  EXPECT_EQ(refusal([](Writer& w) { w.add("tokenizer.ggml.bos_token_id", ~0u); }), "fine");
  EXPECT_THAT(refusal([](Writer& w) { w.add("tokenizer.ggml.merges", "a b"); }),
              HasSubstr("is a string, not an array"));
}

TEST(GgufVocabulary, ReadsThePublishedFiles) {
  const fs::path folder = "../shared/data/tokenizers/gguf";
  if (!fs::exists(folder)) GTEST_SKIP() << "no shared data";
  int files = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto file = File::open(entry.path());
    ASSERT_TRUE(file) << file.error().message;
    const auto vocabulary = read_vocabulary(*file);
    ASSERT_TRUE(vocabulary) << vocabulary.error().message;
    EXPECT_GT(vocabulary->tokens.size(), 1000u);
    ++files;
  }
  EXPECT_EQ(files, 14);
  const auto file = File::open(folder / "ggml-vocab-qwen2.gguf");
  ASSERT_TRUE(file);
  EXPECT_THAT(read_chat_templates(*file).value().source, HasSubstr("<|im_start|>"));
  const auto vocabulary = read_vocabulary(*file);
  EXPECT_EQ(vocabulary->pre, "qwen2");
  EXPECT_FALSE(vocabulary->add_bos);
  EXPECT_EQ(vocabulary->tokens[static_cast<std::size_t>(vocabulary->eos)], "<|im_end|>");
}

}  // namespace
}  // namespace ashlar::models::gguf
