#include "engine/text_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <future>
#include <numeric>

#include "engine/fakes_for_test.h"
#include "engine/silent_generator.h"

namespace ashlar::engine {
namespace {

using testing::HasSubstr;

// A text's vector is its length, the sum of its ids, and the sum of its types. Remembers its steps.
class FakeEncoder final : public models::Encoder {
 public:
  explicit FakeEncoder(models::Pooling pooling = models::Pooling::mean, int outputs = 3)
      : pooling_(pooling), outputs_(outputs) {
    shape_.context = 40;
    shape_.width = 3;
  }
  const models::Shape& shape() const override { return shape_; }
  models::Pooling pooling() const override { return pooling_; }
  int outputs() const override { return outputs_; }
  int max_tokens() const override { return 64; }
  int max_texts() const override { return 8; }
  void encode(const models::EncodeStep& step) override {
    if (throws) throw std::runtime_error("no");
    entered.set_value();
    entered = {};
    if (gate.valid()) gate.wait();
    std::size_t at = 0, out = 0;
    steps.emplace_back(step.lengths.begin(), step.lengths.end());
    for (const int length : step.lengths) {
      const auto count = static_cast<std::size_t>(length);
      const auto ids = step.tokens.subspan(at, count);
      const auto types = step.types.subspan(at, count);
      const float values[] = {static_cast<float>(length),
                              static_cast<float>(std::accumulate(ids.begin(), ids.end(), 0)),
                              static_cast<float>(std::accumulate(types.begin(), types.end(), 0))};
      for (int i = 0; i < outputs_; ++i) step.out[out++] = broken ? std::nanf("") : values[i];
      at += count;
    }
  }

  bool throws = false, broken = false;
  std::promise<void> entered;           // of the next step
  std::shared_future<void> gate;        // steps wait for it, if it is there
  std::vector<std::vector<int>> steps;  // lengths of each; the computing thread's until the reader is gone

 private:
  models::Shape shape_;
  models::Pooling pooling_;
  int outputs_;
};

using Embedded = std::expected<Embeddings, Generator::Refusal>;
using Ranked = std::expected<Ranking, Generator::Refusal>;

struct Bench {
  std::shared_ptr<FakeEncoder> encoder;
  std::shared_ptr<fake::Tokenizer> tokenizer = std::make_shared<fake::Tokenizer>();
  std::unique_ptr<TextReader> reader;

  explicit Bench(std::shared_ptr<FakeEncoder> its = std::make_shared<FakeEncoder>(), TextReaderOptions options = {})
      : encoder(std::move(its)) {
    TextReaderParts parts{.names = {"m"}, .encoder = encoder, .tokenizer = tokenizer};
    if (encoder->pooling() == models::Pooling::rank) {
      parts.pair_form = PairForm::create(tokenizer, "").value();
      parts.relevant = relevant_score(encoder->outputs(), {}).value();
    }
    reader = std::make_unique<TextReader>(std::move(parts), options);
  }
  std::future<Embedded> send(EmbedRequest request) {
    auto promise = std::make_shared<std::promise<Embedded>>();
    reader->embed(std::move(request), [promise](Embedded answer) { promise->set_value(std::move(answer)); });
    return promise->get_future();
  }
  Embedded embed(EmbedRequest request) { return send(std::move(request)).get(); }
  Ranked rank(RerankRequest request) {
    std::promise<Ranked> promise;
    reader->rerank(std::move(request), [&](Ranked answer) { promise.set_value(std::move(answer)); });
    return promise.get_future().get();
  }
};

TEST(TextReader, GivesEachTextItsVectorOfLengthOne) {
  Bench bench;
  const auto answer = bench.embed({.model = "m", .inputs = {"ab", std::vector<std::int32_t>{3}, ""}});
  ASSERT_TRUE(answer.has_value()) << answer.error().error.message;
  EXPECT_EQ(answer->dimensions, 3);
  EXPECT_EQ(answer->prompt_tokens, 3 + 1 + 1);  // <s> before texts, nothing around ids
  ASSERT_EQ(answer->values.size(), 9u);
  const double length = std::sqrt(3.0 * 3 + std::pow(256 + 'a' + 'b', 2));
  EXPECT_NEAR(answer->values[0], 3 / length, 1e-6);
  EXPECT_NEAR(answer->values[1], (256 + 'a' + 'b') / length, 1e-6);
  EXPECT_NEAR(answer->values[3], 1 / std::sqrt(10.0), 1e-6);
}

TEST(TextReader, FewerDimensionsAreNormalizedAgain) {
  Bench bench;
  const auto answer = bench.embed({.inputs = {std::vector<std::int32_t>{3, 4}}, .dimensions = 1});
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->values, std::vector<float>{1});
  EXPECT_EQ(bench.embed({.inputs = {"a"}, .dimensions = 4}).error().error.code, Code::invalid);
}

TEST(TextReader, RefusesWhatItCannotReadAndSaysWhy) {
  Bench bench;
  const auto refusal = [&](EmbedRequest request) { return bench.embed(std::move(request)).error(); };
  EXPECT_EQ(refusal({.model = "other", .inputs = {"a"}}).error.code, Code::not_found);
  EXPECT_EQ(refusal({.inputs = {}}).error.code, Code::invalid);
  EXPECT_THAT(refusal({.inputs = {std::vector<std::int32_t>{1, 900}}}).error.message, HasSubstr("900"));
  const auto longer = refusal({.inputs = {"a", std::string(50, 'x')}});
  EXPECT_TRUE(longer.over_context);
  EXPECT_EQ(longer.error.code, Code::invalid);
  EXPECT_THAT(longer.error.message, HasSubstr("input 1 has 51 tokens, but the model reads at most 40"));
  EXPECT_EQ(bench.rank({.query = "a", .documents = {"b"}}).error().error.code, Code::unsupported);
  EXPECT_TRUE(bench.embed({.inputs = {std::string(50, 'x')}, .truncate = 0}).has_value());
  const auto cut = bench.embed({.inputs = {std::string(50, 'x')}, .truncate = 7});
  EXPECT_EQ(cut->prompt_tokens, 7);
}

TEST(TextReader, ManyRequestsTakeTurnsInBatchesByLength) {
  std::promise<void> open;
  auto encoder = std::make_shared<FakeEncoder>();
  encoder->gate = open.get_future().share();
  std::vector<std::vector<int>> steps;
  {
    Bench bench(encoder, {.embed_batch_tokens = 24});
    auto entered = encoder->entered.get_future();
    auto first = bench.send({.inputs = {std::vector<std::int32_t>(2, 1)}});
    entered.wait();  // all that follows waits for the first step
    const auto texts = [](std::vector<int> lengths) {
      std::vector<TextOrIds> out;
      for (const int length : lengths) out.emplace_back(std::vector<std::int32_t>(static_cast<std::size_t>(length), 1));
      return out;
    };
    auto large = bench.send({.inputs = texts({40, 20, 10, 4, 4, 4, 4})});
    auto small = bench.send({.inputs = texts({5})});
    open.set_value();
    EXPECT_TRUE(first.get().has_value());
    EXPECT_TRUE(small.get().has_value());
    const auto answer = large.get();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->values.size(), 21u);
    EXPECT_EQ(answer->prompt_tokens, 86);
    bench.reader.reset();
    steps = encoder->steps;
  }
  for (const auto& step : steps) EXPECT_TRUE(step.size() == 1 || std::accumulate(step.begin(), step.end(), 0) <= 24);
  std::vector<int> lengths;  // of the large request's texts, as they came
  for (const auto& step : steps)
    for (const int length : step)
      if (length != 2 && length != 5) lengths.push_back(length);
  EXPECT_EQ(lengths, (std::vector<int>{4, 4, 4, 4, 10, 20, 40}));
  EXPECT_LT(steps.size(), 7u);
}

TEST(TextReader, AFullQueueRefusesAndSaysWhenToComeBack) {
  std::promise<void> open;
  auto encoder = std::make_shared<FakeEncoder>();
  encoder->gate = open.get_future().share();
  Bench bench(encoder, {.max_num_queued_texts = 3});
  auto entered = encoder->entered.get_future();
  auto first = bench.send({.inputs = {"a", "b"}});
  entered.wait();
  const auto refused = bench.embed({.inputs = {"c", "d"}});
  EXPECT_EQ(refused.error().error.code, Code::exhausted);
  EXPECT_GT(refused.error().retry_after.count(), 0);
  EXPECT_EQ(bench.embed({.inputs = std::vector<TextOrIds>(4, "x")}).error().error.code, Code::too_large);
  auto fits = bench.send({.inputs = {"e"}});
  open.set_value();
  EXPECT_TRUE(first.get().has_value());
  EXPECT_TRUE(fits.get().has_value());
}

TEST(TextReader, WhoLeftOrIsLateIsNotReadFor) {
  std::promise<void> open;
  auto encoder = std::make_shared<FakeEncoder>();
  encoder->gate = open.get_future().share();
  Bench bench(encoder);
  auto entered = encoder->entered.get_future();
  auto first = bench.send({.inputs = {"a"}});
  entered.wait();
  std::stop_source client;
  auto left = bench.send({.inputs = {"b"}, .stop = client.get_token()});
  auto late = bench.send({.inputs = {"c"}, .deadline = Clock::now()});
  EXPECT_EQ(late.get().error().error.code, Code::deadline);
  client.request_stop();
  open.set_value();
  EXPECT_EQ(left.get().error().error.code, Code::cancelled);
  EXPECT_TRUE(first.get().has_value());
}

TEST(TextReader, AnswersAllWhenItEnds) {
  std::promise<void> open;
  auto encoder = std::make_shared<FakeEncoder>();
  encoder->gate = open.get_future().share();
  Bench bench(encoder);
  auto entered = encoder->entered.get_future();
  auto first = bench.send({.inputs = {"a"}});
  entered.wait();
  auto second = bench.send({.inputs = {"b"}});
  std::thread opener([&] { open.set_value(); });
  bench.reader.reset();
  opener.join();
  EXPECT_TRUE(first.get().has_value());
  const auto answer = second.get();
  EXPECT_TRUE(answer.has_value() || answer.error().error.code == Code::unavailable);
}

TEST(TextReader, BrokenStepsFailTheirOwnRequests) {
  auto encoder = std::make_shared<FakeEncoder>();
  Bench bench(encoder);
  encoder->throws = true;
  EXPECT_EQ(bench.embed({.inputs = {"a", "b"}}).error().error.code, Code::internal);
  encoder->throws = false;
  encoder->broken = true;
  EXPECT_EQ(bench.embed({.inputs = {"a"}}).error().error.code, Code::internal);
  encoder->broken = false;
  EXPECT_TRUE(bench.embed({.inputs = {"a"}}).has_value());
}

TEST(TextReader, RanksByOneScoreOrBySeveral) {
  Bench one(std::make_shared<FakeEncoder>(models::Pooling::rank, 1));
  // <s> q </s></s> d </s>: five tokens and the document's.
  const auto raw = one.rank({.query = "q", .documents = {"d", "dd", ""}, .raw_scores = true});
  ASSERT_TRUE(raw.has_value()) << raw.error().error.message;
  EXPECT_EQ(raw->scores, (std::vector<float>{6, 7, 5}));
  EXPECT_EQ(raw->prompt_tokens, 18);
  const auto share = one.rank({.query = "q", .documents = {"d"}});
  EXPECT_NEAR(share->scores[0], 1 / (1 + std::exp(-6.0)), 1e-6);
  EXPECT_EQ(one.embed({.inputs = {"a"}}).error().error.code, Code::unsupported);
  Bench two(std::make_shared<FakeEncoder>(models::Pooling::rank, 2));
  EXPECT_EQ(two.rank({.query = "q", .documents = {"d"}, .raw_scores = true})->scores[0],
            static_cast<float>(fake::kBos + 3 * fake::kEos + 'q' + 'd'));
}

TEST(TextReader, TheScoreThatSaysRelevant) {
  EXPECT_EQ(relevant_score(1, {}).value(), 0);
  EXPECT_EQ(relevant_score(2, {}).value(), 1);
  EXPECT_EQ(relevant_score(2, {"yes", "no"}).value(), 0);
  EXPECT_EQ(relevant_score(2, {"LABEL_0", "LABEL_1"}).value(), 1);
  EXPECT_EQ(relevant_score(3, {"entailment", "neutral", "contradiction"}).error().code, Code::unsupported);
}

TEST(PairForm, WritesWhatAPatternSays) {
  const auto tokenizer = std::make_shared<fake::Tokenizer>();
  const auto form = PairForm::create(tokenizer, "<s>Q{query}D{document}</s>").value();
  const auto text = [&](const PairForm::Pair& pair) { return tokenizer->decode(pair.ids, true); };
  const auto pair = form.write("a</s>{document}", "b{query}<s>", -1, -1);
  EXPECT_EQ(text(pair), "<s>Qa</s>{document}Db{query}<s></s>");
  EXPECT_EQ(std::ranges::count(pair.ids, fake::kEos), 1);  // what a query writes is plain text
  EXPECT_EQ(std::ranges::count(pair.ids, fake::kBos), 1);
  EXPECT_TRUE(pair.types.empty());
  EXPECT_EQ(text(form.write("a", "bcdef", 2, -1)), "<s>QaDbc</s>");
  EXPECT_EQ(text(form.write("a", "bcdef", -1, 8)), "<s>QaDbcd</s>");
  EXPECT_FALSE(PairForm::create(tokenizer, "{query} alone").has_value());
  EXPECT_FALSE(PairForm::create(tokenizer, "{query}{document}{document}").has_value());
  EXPECT_FALSE(PairForm::create(tokenizer, std::string(20'000, 'x') + "{query}{document}").has_value());
}

TEST(PairForm, SeparatesAsEncodersWereTrained) {
  const auto tokenizer = std::make_shared<fake::Tokenizer>();
  const auto form = PairForm::create(tokenizer, "").value();
  const auto pair = form.write("ab", "c", -1, -1);
  EXPECT_EQ(pair.ids, (std::vector<std::int32_t>{fake::kBos, 'a', 'b', fake::kEos, fake::kEos, 'c', fake::kEos}));
  EXPECT_EQ(pair.types, (std::vector<std::uint8_t>{0, 0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(form.write("ab", "cdefg", -1, 8).ids.size(), 8u);
  EXPECT_EQ(form.write("ab", "cdefg", 1, -1).ids.size(), 7u);
  EXPECT_FALSE(form.write("ab", "cdefg", 1, -1).cut);
}

TEST(PairForm, CutsTheLongerOfTheTwo) {
  const auto tokenizer = std::make_shared<fake::Tokenizer>();
  const auto form = PairForm::create(tokenizer, "").value();
  const struct {
    std::string query, document;
    int most;
    int of_query, of_document;
  } cases[] = {{"ab", "cdefg", 11, 2, 5},   {"ab", "cdefg", 10, 2, 4},   {"abcde", "fg", 10, 4, 2},
               {"abcde", "fghij", 9, 2, 3}, {"abcdef", "ghij", 9, 3, 2}, {"abc", "def", 4, 0, 0}};
  for (const auto& one : cases) {
    const PairForm::Pair pair = form.write(one.query, one.document, -1, one.most);
    EXPECT_EQ(std::ranges::count(pair.types, 0), one.of_query + 3);
    EXPECT_EQ(std::ranges::count(pair.types, 1), one.of_document + 1);
    EXPECT_EQ(pair.cut, one.most < 11);
  }
}

TEST(SilentGenerator, RefusesByName) {
  const auto tokenizer = std::make_shared<fake::Tokenizer>();
  SilentGenerator silent({.id = "bge", .context = 40, .embedding = 3}, tokenizer);
  struct Nothing : Sink {
    void on(Event) override {}
  } sink;
  const auto started = silent.start({.model = "bge"}, sink);
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().error.code, Code::unsupported);
  EXPECT_THAT(started.error().error.message, HasSubstr("/v1/embeddings"));
  EXPECT_FALSE(silent.models()[0].generates);
  EXPECT_EQ(silent.tokenize("bge", {.input = std::string("ab")}, false)->ids.size(), 3u);
}

}  // namespace
}  // namespace ashlar::engine
