#include "models/formats/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

namespace ashlar::models::safetensors {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

std::string file_of(std::string_view header, std::string_view data = {}) {
  const std::uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  return bytes.append(header).append(data);
}

// "NAME":{...}, of `bytes` U8 numbers.
std::string u8(std::string_view name, std::size_t begin, std::size_t end) {
  return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}})", name, end - begin, begin, end);
}

// A heap copy of exactly the bytes given, so that AddressSanitizer sees a step beyond them.
Result<Part> read(std::string_view bytes, std::unique_ptr<std::byte[]>* keep = nullptr) {
  auto copy = std::make_unique<std::byte[]>(bytes.size());
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  auto part = read_part({copy.get(), bytes.size()}, "m.safetensors");
  if (keep != nullptr) *keep = std::move(copy);
  return part;
}

std::string refusal(std::string_view bytes) {
  const auto part = read(bytes);
  return part ? "fine" : part.error().message;
}

// What is said of a lone tensor "t" over 8 bytes of data.
std::string refusal_of(std::string_view type, std::string_view shape, std::string_view offsets) {
  return refusal(
      file_of(fmt::format(R"({{"t":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", type, shape, offsets), "12345678"));
}

const std::string kSample = file_of(
    R"({"__metadata__":{"format":"pt","by":"hand"},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
    R"("b":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"none":{"dtype":"I64","shape":[4,0],"data_offsets":[4,4]}}  )",
    "\1\2\3\4abcdefghijkl");

TEST(Safetensors, ReadsTensorsAndMetadata) {
  std::unique_ptr<std::byte[]> keep;
  const auto part = read(kSample, &keep);
  ASSERT_TRUE(part) << part.error().message;
  EXPECT_THAT(part->metadata, ElementsAre(Pair("format", "pt"), Pair("by", "hand")));
  ASSERT_EQ(part->tensors.size(), 3u);
  const Tensor &b = part->tensors[0], &none = part->tensors[1], &w = part->tensors[2];
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.type, Type::f32);
  EXPECT_EQ(b.elements(), 1);
  EXPECT_EQ(shape_text(b), "[]");
  EXPECT_EQ(b.data[3], std::byte{4});
  EXPECT_EQ(none.elements(), 0);
  EXPECT_THAT(w.shape, ElementsAre(2, 3));
  EXPECT_EQ(w.elements(), 6);
  EXPECT_EQ(shape_text(w), "[2, 3]");
  EXPECT_EQ(std::memcmp(w.data.data(), "abcdefghijkl", w.data.size()), 0);
}

TEST(Safetensors, KnowsEveryType) {
  const std::pair<std::string_view, int> types[] = {{"F64", 8},     {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1},
                                                    {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2},  {"I8", 1},
                                                    {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1}};
  for (const auto& [type, bytes] : types) {
    const auto part =
        read(file_of(fmt::format(R"({{"t":{{"dtype":"{}","shape":[3],"data_offsets":[0,{}]}}}})", type, 3 * bytes),
                     std::string(static_cast<std::size_t>(3 * bytes), 'x')));
    ASSERT_TRUE(part) << part.error().message;
    EXPECT_EQ(name(part->tensors[0].type), type);
    EXPECT_EQ(bytes_of(part->tensors[0].type), bytes);
    EXPECT_EQ(part->tensors[0].elements(), 3);
  }
}

TEST(Safetensors, EveryTruncationIsAnError) {
  ASSERT_EQ(refusal(kSample), "fine");
  for (std::size_t size = 0; size < kSample.size(); ++size) {
    const std::string message = refusal(kSample.substr(0, size));
    EXPECT_TRUE(message.starts_with("m.safetensors: ")) << size << ": " << message;
  }
  EXPECT_THAT(refusal(kSample.substr(0, kSample.size() - 1)), HasSubstr("(is it cut short?)"));
  EXPECT_THAT(refusal(kSample.substr(0, 40)), HasSubstr("bytes, but the file ends after 32 of them"));
}

TEST(Safetensors, RefusesHolesAndOverlaps) {
  EXPECT_EQ(refusal(file_of("{" + u8("b", 4, 8) + "," + u8("a", 0, 4) + "}", "12345678")), "fine");
  EXPECT_THAT(refusal(file_of("{" + u8("a", 0, 4) + "," + u8("b", 3, 8) + "}", "12345678")),
              HasSubstr("tensor 'b' overlaps another tensor"));
  EXPECT_THAT(refusal(file_of("{" + u8("a", 0, 8) + "," + u8("b", 0, 8) + "}", "12345678")), HasSubstr("overlaps"));
  EXPECT_THAT(refusal(file_of("{" + u8("a", 0, 8) + "," + u8("b", 4, 4) + "}", "12345678")), HasSubstr("overlaps"));
  EXPECT_THAT(refusal(file_of("{" + u8("a", 0, 4) + "," + u8("b", 5, 8) + "}", "12345678")),
              HasSubstr("tensor 'b' is preceded by 1 bytes that belong to no tensor"));
  EXPECT_THAT(refusal(file_of("{" + u8("a", 1, 8) + "}", "12345678")), HasSubstr("is preceded by 1 bytes"));
  EXPECT_THAT(refusal(file_of("{" + u8("a", 0, 6) + "}", "12345678")),
              HasSubstr("its last 2 bytes belong to no tensor"));
  EXPECT_THAT(refusal(file_of("{}", "x")), HasSubstr("its last 1 bytes"));
}

TEST(Safetensors, RefusesSizesThatDoNotAddUp) {
  EXPECT_EQ(refusal_of("\"F32\"", "[2]", "[0,8]"), "fine");
  EXPECT_THAT(refusal_of("\"F32\"", "[3]", "[0,8]"), HasSubstr("tensor 't' has 8 bytes, but F32 of shape [3] has 12"));
  EXPECT_THAT(refusal_of("\"F32\"", "[2]", "[8,0]"), HasSubstr("begins at 8 and ends before that, at 0"));
  EXPECT_THAT(refusal_of("\"F32\"", "[2]", "[1,9]"), HasSubstr("ends at byte 9 of the data, but the file has 8"));
  EXPECT_THAT(refusal_of("\"F32\"", "[2]", "[18446744073709551608,18446744073709551615]"), HasSubstr("cut short"));
  for (const char* shape : {"[4611686018427387904,2]", "[2147483648,2147483648,2]", "[18446744073709551615]",
                            "[0,4611686018427387904,4]", "[4294967296,4294967296,0]"})
    EXPECT_THAT(refusal_of("\"F32\"", shape, "[0,8]"), HasSubstr("multiply to more than any file holds")) << shape;
}

TEST(Safetensors, RefusesEntriesOfAnotherForm) {
  EXPECT_THAT(refusal_of("\"F4\"", "[2]", "[0,8]"),
              HasSubstr("tensor 't' is of type 'F4', which is not supported; F64,"));
  EXPECT_THAT(refusal_of("7", "[2]", "[0,8]"), HasSubstr("no \"dtype\" that is a string"));
  for (const char* shape : {"2", "[-2]", "[2.0]", "[\"2\"]", "[[2]]", "null"})
    EXPECT_NE(refusal_of("\"F32\"", shape, "[0,8]"), "fine") << shape;
  EXPECT_THAT(refusal_of("\"U8\"", "[8,1,1,1,1,1,1,1,1]", "[0,8]"), HasSubstr("an array has more than 8 elements"));
  for (const char* offsets : {"8", "[8]", "[0,4,8]", "[0,8.0]", "[-1,7]", "{}", "[]"})
    EXPECT_THAT(refusal_of("\"F32\"", "[2]", offsets), HasSubstr("no \"data_offsets\" that are two whole numbers"));
  EXPECT_THAT(refusal(file_of(R"({"t":{"dtype":"U8","shape":[0]}})")), HasSubstr("no \"data_offsets\""));
  EXPECT_THAT(refusal(file_of(R"({"t":[]})")), HasSubstr("tensor 't' is not described by an object"));
  EXPECT_THAT(refusal(file_of("{" + u8("", 0, 0) + "}")), HasSubstr("a name of 0 bytes"));
  EXPECT_THAT(refusal(file_of(R"({"__metadata__":[]})")), HasSubstr("__metadata__ is not an object"));
  EXPECT_THAT(refusal(file_of(R"({"__metadata__":{"a":1}})")), HasSubstr("__metadata__ 'a' is not a string"));
}

TEST(Safetensors, RefusesWhatAppearsTwice) {
  EXPECT_THAT(refusal(file_of("{" + u8("a", 0, 4) + "," + u8("a", 4, 8) + "}", "12345678")),
              HasSubstr("tensor 'a' appears twice"));
  EXPECT_THAT(refusal(file_of(R"({"__metadata__":{},"__metadata__":{}})")), HasSubstr("__metadata__ appears twice"));
  EXPECT_THAT(refusal(file_of(R"({"t":{"dtype":"U8","shape":[1],"shape":[0],"data_offsets":[0,0]}})")),
              HasSubstr("a name stands twice"));
}

TEST(Safetensors, RefusesHeadersThatAreNone) {
  EXPECT_EQ(refusal(file_of("{}")), "fine");
  EXPECT_THAT(refusal(file_of("")), HasSubstr("its header is not a JSON object"));
  EXPECT_THAT(refusal(file_of("[]")), HasSubstr("its header is not a JSON object"));
  EXPECT_THAT(refusal(file_of(" {}")), HasSubstr("its header is not a JSON object"));
  EXPECT_THAT(refusal(file_of("{}x")), HasSubstr("m.safetensors: the header: JSON: byte 3"));
  EXPECT_THAT(refusal(file_of("{\"\xff\":0}")), HasSubstr("the header: JSON: byte"));
  EXPECT_THAT(refusal(std::string(8, '\xff') + "{}"), HasSubstr("a header of 18446744073709551615 bytes"));
  EXPECT_THAT(refusal(file_of("{\"a\":" + std::string(100000, '[') + "}")), HasSubstr("nested deeper than 3"));
}

TEST(Safetensors, NamesTheFormatsThatItRefuses) {
  EXPECT_THAT(refusal("PK\x03\x04\x14" + std::string(40, '\0')), HasSubstr("a zip archive"));
  EXPECT_THAT(refusal("\x80\x02}q" + std::string(40, 'x')), HasSubstr("a Python pickle, which can run code"));
  EXPECT_THAT(refusal("GGUF\3" + std::string(40, '\0')), HasSubstr("a GGUF file; safetensors are expected"));
  EXPECT_THAT(refusal("version https://git-lfs.github.com/spec/v1\noid"), HasSubstr("a Git LFS pointer"));
}

// A folder that is there as long as the test.
class SafetensorsFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("ashlar-safetensors-{}", ::getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, std::string_view bytes) { std::ofstream(folder_ / name) << bytes; }
  void write_index(std::string_view map) {
    write("model.safetensors.index.json", fmt::format(R"({{"metadata":{{"total_size":8}},"weight_map":{}}})", map));
  }
  std::string refusal(const std::string& name = "") {
    const auto found = Checkpoint::open((folder_ / name).string());
    return found ? "fine" : found.error().message;
  }

  fs::path folder_;
  const std::string one_ =
      file_of(R"({"__metadata__":{"format":"pt"},)" + u8("a", 0, 2) + "," + u8("c", 2, 4) + "}", "aacc");
  const std::string two_ = file_of("{" + u8("b", 0, 4) + "}", "bbbb");
};

TEST_F(SafetensorsFolder, OpensOneFile) {
  write("model.safetensors", one_);
  for (const char* name : {"", "model.safetensors"}) {
    const auto found = Checkpoint::open((folder_ / name).string());
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->tensors().size(), 2u);
    EXPECT_EQ(found->bytes(), one_.size());
    EXPECT_THAT(found->metadata(), ElementsAre(Pair("format", "pt")));
    ASSERT_NE(found->find("c"), nullptr);
    found->release(*found->find("c"));
    EXPECT_EQ(found->find("c")->data[1], std::byte{'c'});
    EXPECT_EQ(found->find("b"), nullptr);
  }
}

TEST_F(SafetensorsFolder, OpensShards) {
  write("y.safetensors", one_);
  write("x.safetensors", two_);
  write_index(R"({"a":"y.safetensors","b":"x.safetensors","c":"y.safetensors"})");
  const auto found = Checkpoint::open(folder_.string());
  ASSERT_TRUE(found) << found.error().message;
  ASSERT_EQ(found->tensors().size(), 3u);
  EXPECT_EQ(found->shards().size(), 2u);
  EXPECT_EQ(found->find("a")->shard, 1);
  EXPECT_EQ(found->find("b")->shard, 0);
  EXPECT_EQ(found->find("b")->data[3], std::byte{'b'});
}

TEST_F(SafetensorsFolder, RefusesShardsThatDisagreeWithTheIndex) {
  write("y.safetensors", one_);
  write_index(R"({"a":"y.safetensors","c":"y.safetensors","b":"x.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("x.safetensors: shard 1 of 2 of this model is missing"));
  write("x.safetensors", two_);
  ASSERT_EQ(refusal(), "fine");
  write_index(R"({"a":"x.safetensors","c":"y.safetensors","b":"x.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("tensor 'a' belongs in x.safetensors, but is in y.safetensors"));
  write_index(R"({"a":"y.safetensors","c":"y.safetensors","b":"x.safetensors","d":"x.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("tensor 'd' is missing in x.safetensors"));
  write_index(R"({"a":"y.safetensors","b":"x.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("y.safetensors: tensor 'c' is not in the index"));
  write("x.safetensors", one_);
  write_index(R"({"a":"y.safetensors","b":"x.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("tensor 'a' appears twice"));
}

TEST_F(SafetensorsFolder, RefusesAFolderWithoutSafetensors) {
  EXPECT_THAT(refusal(), HasSubstr("neither model.safetensors nor model.safetensors.index.json is there"));
  EXPECT_EQ(Checkpoint::open((folder_ / "none.safetensors").string()).error().code, Code::not_found);
  write("pytorch_model.bin", one_);  // refused for its name, whatever is in it
  EXPECT_THAT(refusal(), HasSubstr("pytorch_model.bin: pickles and zip archives are not read"));
  EXPECT_THAT(refusal("pytorch_model.bin"), HasSubstr("pickles and zip archives are not read"));
  EXPECT_THAT(refusal("no.pth"), HasSubstr("pickles and zip archives are not read"));
}

TEST_F(SafetensorsFolder, TakesWhatCanOnlyBeTheModel) {
  write("gptq_model-4bit-128g.safetensors", one_);
  write("consolidated.safetensors", two_);
  write("adapter_model.safetensors", two_);
  EXPECT_EQ(refusal(), "fine");
  write("other.safetensors", two_);
  EXPECT_THAT(refusal(), HasSubstr("gptq_model-4bit-128g.safetensors and other.safetensors could both be the model"));
  write("model.safetensors", one_);
  write_index(R"({"x":"missing.safetensors"})");  // beside the whole model it is not read
  EXPECT_EQ(refusal(), "fine");
}

TEST_F(SafetensorsFolder, PartsWithoutAnIndexAreAllOrNothing) {
  write("model-00001-of-00002.safetensors", one_);
  EXPECT_THAT(refusal(), HasSubstr("part 2 of 2 of this model is missing"));
  write("model-00002-of-00002.safetensors", two_);
  const auto found = Checkpoint::open(folder_.string());
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->tensors().size(), 3u);
  write("model-00002-of-00002.safetensors", one_);
  EXPECT_THAT(refusal(), HasSubstr("tensor 'a' appears twice"));
  write("model-00003-of-00003.safetensors", one_);
  EXPECT_THAT(refusal(), HasSubstr("could both be the model"));
  fs::remove(folder_ / "model-00001-of-00002.safetensors");
  fs::remove(folder_ / "model-00002-of-00002.safetensors");
  EXPECT_THAT(refusal(), HasSubstr("part 1 of 3 of this model is missing"));
}

TEST_F(SafetensorsFolder, NamesWhatIsThereInstead) {
  for (const auto& [file, what] : {std::pair{"training_args.bin", "pickles and zip archives are not read"},
                                   {"pytorch_model-00001-of-00002.bin", "pytorch_model-00001-of-00002.bin: pickles"}}) {
    write(file, one_);
    EXPECT_THAT(refusal(), HasSubstr(what));
    EXPECT_THAT(refusal(), HasSubstr("save_pretrained()"));
  }
  for (const auto& [file, what] : {std::pair{"m-q4_0.gguf", "give its own path"},
                                   {"tf_model.h5", "TensorFlow's; safetensors are expected"},
                                   {"model.onnx", "this is ONNX"}}) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write(file, one_);
    EXPECT_THAT(refusal(), HasSubstr(what));
  }
}

TEST(SafetensorsIndex, RefusesShardsElsewhere) {
  for (const char* shard : {"../x.safetensors", "/etc/x.safetensors", "a/x.safetensors", "a\\\\x.safetensors", "..", "",
                            ".safetensors", ".x.safetensors", "x.bin", "x\\u0000.safetensors"}) {
    const auto index = read_index(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", shard), "i.json");
    ASSERT_FALSE(index) << shard;
    EXPECT_THAT(index.error().message, HasSubstr("is not a plain name that ends in .safetensors"));
  }
}

TEST(SafetensorsIndex, RefusesWhatIsNoIndex) {
  const auto message = [](std::string_view text) {
    const auto index = read_index(text, "i.json");
    return index ? "fine" : index.error().message;
  };
  EXPECT_EQ(message(R"({"weight_map":{"a":"x.safetensors"}})"), "fine");
  for (const char* text : {"{}", "[]", "7", "null", R"({"weight_map":{}})", R"({"weight_map":[{"a":"x.safetensors"}]})",
                           R"([{"weight_map":{"a":"x.safetensors"}}])"})
    EXPECT_EQ(message(text), "i.json: there is no \"weight_map\" of tensors to files") << text;
  EXPECT_THAT(message(R"({"weight_map":{"a":7}})"), HasSubstr("a shard's name is not a string"));
  EXPECT_THAT(message(R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})"), HasSubstr("'a' appears twice"));
  EXPECT_THAT(message(R"({"weight_map":)"), HasSubstr("i.json: JSON: byte"));
}

// The index of a published model.
TEST(SafetensorsIndex, ReadsThatOfAPublishedModel) {
  const std::string path = "../shared/data/configs/qwen_vl_int4/model.safetensors.index.json";
  if (!fs::exists(path)) GTEST_SKIP() << "no shared data";
  const auto mapped = MappedFile::open(path);
  ASSERT_TRUE(mapped);
  const auto index = read_index({reinterpret_cast<const char*>(mapped->bytes().data()), mapped->bytes().size()}, path);
  ASSERT_TRUE(index) << index.error().message;
  EXPECT_GT(index->shards.size(), 1u);
  EXPECT_GT(index->entries.size(), 100u);
}

}  // namespace
}  // namespace ashlar::models::safetensors
