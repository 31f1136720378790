// What a file is served as: to generate, to embed or to rank.
#include "cli/reading.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <future>

#include "cli/host.h"
#include "models/formats/gguf_writer.h"

namespace ashlar::cli {
namespace {

namespace fs = std::filesystem;
using models::gguf::Writer;
using testing::HasSubstr;

const std::string kStories = "../shared/data/models/stories260K/stories260K-f32.gguf";
constexpr std::size_t kWidth = 64;

class ReadingTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kStories)) GTEST_SKIP() << "no shared data";
  }
  void TearDown() override { fs::remove(path); }

  // The stories' model with further keys and tensors, under another name if one is given.
  Result<std::unique_ptr<Host>> serve(const std::function<void(Writer&)>& more, std::string_view name = "stories") {
    const auto file = models::gguf::File::open(kStories);
    CHECK(file.has_value(), "the model can be read");
    Writer writer;
    for (const auto& key : file->keys())
      if (key.name != "general.name") writer.add(key.name, key.value);
    writer.add("general.name", name);
    for (const auto& tensor : file->tensors())
      writer.add_tensor(tensor.name, tensor.type, {tensor.dims.begin(), tensor.dims.begin() + tensor.rank},
                        tensor.data);
    more(writer);
    CHECK(writer.write(path.string()).has_value(), "temporary files can be written");
    HostOptions options;
    options.packed_cache.packed_cache = "off";
    options.threads = 1;
    return Host::open({"m=" + path.string()}, options);
  }
  static std::expected<engine::Embeddings, engine::Generator::Refusal> embed(Host& host) {
    std::promise<std::expected<engine::Embeddings, engine::Generator::Refusal>> promise;
    host.embedder().embed({.model = "m", .inputs = {"Once upon a time", "Lily"}},
                          [&](auto answer) { promise.set_value(std::move(answer)); });
    return promise.get_future().get();
  }
  static std::expected<engine::Ranking, engine::Generator::Refusal> rank(Host& host) {
    std::promise<std::expected<engine::Ranking, engine::Generator::Refusal>> promise;
    host.reranker().rerank({.model = "m", .query = "Who is Lily?", .documents = {"A girl.", "A long story of a dog."}},
                           [&](auto answer) { promise.set_value(std::move(answer)); });
    return promise.get_future().get();
  }

  fs::path path = fs::temp_directory_path() / ("ashlar_reading_" + std::to_string(::getpid()) + ".gguf");
};

TEST_F(ReadingTest, AGeneratorEmbedsToo) {
  const auto host = serve([](Writer&) {});
  ASSERT_TRUE(host.has_value()) << host.error().message;
  const auto card = (*host)->generator().models().at(0);
  EXPECT_TRUE(card.generates);
  EXPECT_EQ(card.embedding, static_cast<int>(kWidth));
  const auto answer = embed(**host);
  ASSERT_TRUE(answer.has_value()) << answer.error().error.message;
  ASSERT_EQ(answer->values.size(), 2 * kWidth);
  double squares = 0;
  for (std::size_t i = 0; i < kWidth; ++i) squares += std::pow(static_cast<double>(answer->values[i]), 2);
  EXPECT_NEAR(squares, 1, 1e-5);
  EXPECT_EQ(rank(**host).error().error.code, Code::unsupported);
}

TEST_F(ReadingTest, APoolingInTheFileMakesAnEmbedder) {
  // One after the other: they are one file.
  const auto plain = embed(**serve([](Writer&) {}));
  const auto mean = embed(**serve([](Writer& w) { w.add("llama.pooling_type", 1u); }));
  const auto host = serve([](Writer& w) { w.add("llama.pooling_type", 3u); });
  ASSERT_TRUE(host.has_value()) << host.error().message;
  const auto card = (*host)->generator().models().at(0);
  EXPECT_FALSE(card.generates);
  EXPECT_FALSE(card.ranks);
  const auto last = embed(**host);
  ASSERT_TRUE(plain && mean && last);
  EXPECT_EQ(last->values, plain->values);
  EXPECT_NE(mean->values, plain->values);
}

TEST_F(ReadingTest, AClassifierRanks) {
  const std::vector<float> head(2 * kWidth, 0.1F);
  const std::vector<std::string> labels{"yes", "no"};
  const auto host = serve([&](Writer& w) {
    w.add("llama.pooling_type", 4u);
    w.add("llama.classifier.output_labels", std::span<const std::string>(labels));
    w.add("tokenizer.chat_template.rerank", "Q: {query} D: {document}");
    w.add_tensor("cls.output.weight", kernels::Type::f32, {kWidth, 2}, std::as_bytes(std::span(head)));
  });
  ASSERT_TRUE(host.has_value()) << host.error().message;
  EXPECT_TRUE((*host)->generator().models().at(0).ranks);
  const auto answer = rank(**host);
  ASSERT_TRUE(answer.has_value()) << answer.error().error.message;
  EXPECT_EQ(answer->scores, (std::vector<float>{0.5F, 0.5F}));  // both labels weigh the same
  EXPECT_EQ(embed(**host).error().error.code, Code::unsupported);
}

TEST_F(ReadingTest, SaysWhatARerankerLacks) {
  // The small vocabulary has neither word as a token.
  EXPECT_THAT(serve([](Writer&) {}, "Stories-Reranker").error().message, HasSubstr("'yes' and 'no'"));
  EXPECT_THAT(serve([](Writer& w) {
                static constexpr float head[kWidth] = {};  // read when the file is written
                w.add("llama.pooling_type", 4u);
                w.add("tokenizer.chat_template.rerank", "no places");
                w.add_tensor("cls.output.weight", kernels::Type::f32, {kWidth, 1}, std::as_bytes(std::span(head)));
              })
                  .error()
                  .message,
              HasSubstr("{query}"));
}

}  // namespace
}  // namespace ashlar::cli
