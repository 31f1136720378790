#include "gateway/limits/metered_readers.h"

#include <gtest/gtest.h>

#include <optional>
#include <utility>

#include "store/counters_for_test.h"

namespace ashlar::gateway {
namespace {

using End = UsageRecord::End;
using Refusal = engine::Generator::Refusal;

// Bytes are tokens, or the tokenizer is elsewhere.
class Lengths final : public engine::Generator {
 public:
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request, engine::Sink&) override {
    return std::unexpected(Refusal{});
  }
  std::vector<engine::ModelCard> models() const override { return {}; }
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt& prompt, bool) const override {
    if (!known) return Error{Code::unsupported, "elsewhere"};
    return engine::Tokenized{
        .ids = std::vector<std::int32_t>(std::get<std::string>(prompt.input).size()), .pieces = {}, .context = 20};
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>&) const override { return ""; }
  Result<std::string> render(const std::string&, const engine::Chat&) const override { return ""; }
  Load load() const override { return {}; }
  bool known = true;
};

// Answers when a test says so.
class Inner final : public engine::Embedder, public engine::Reranker {
 public:
  void embed(engine::EmbedRequest, engine::Embedder::Done done) override { embedded = std::move(done); }
  void rerank(engine::RerankRequest, engine::Reranker::Done done) override { ranked = std::move(done); }
  engine::Embedder::Done embedded;
  engine::Reranker::Done ranked;
};

class Ledger final : public UsageLedger {
 public:
  void record(const UsageRecord& record) override { records.push_back(record); }
  Result<std::shared_ptr<OpenUsage>> open(const UsageRecord&, const std::optional<Price>&,
                                          std::span<const Measure>) override {
    if (full) return Error{Code::unavailable, "no room"};
    return nullptr;
  }
  std::vector<UsageRecord> records;
  bool full = false;
};

class MeteredReadersTest : public testing::Test {
 protected:
  void SetUp() override {
    limits = *Limits::create(*read_limits(R"(
limits:
  - {scope: user, name: tpd, capacity: 100, period: 24h}
  - {scope: user, name: all, kind: budget, dollars: 1}
prices: [{model: e, input: 10, output: 0}])"),
                             *counters, {.clock = time.clock()});
    embedder.emplace(inner, ReadersMeter{lengths, *limits, ledger});
    reranker.emplace(inner, ReadersMeter{lengths, *limits, ledger});
  }
  void TearDown() override { inner.embedded = nullptr; }  // what it began dies before the limits
  engine::EmbedRequest texts(std::vector<engine::TextOrIds> inputs, int truncate = -1) {
    engine::EmbedRequest request{.model = "e", .inputs = std::move(inputs), .truncate = truncate};
    request.sender.user = "ann";
    request.notes = notes = std::make_shared<engine::Notes>();
    return request;
  }
  void embed(engine::EmbedRequest request) {
    answer.reset();
    embedder->embed(std::move(request), [this](auto got) { answer = std::move(got); });
  }
  std::int64_t left() { return limits->numbers({.user = "ann"}, "e")->tokens->remaining; }

  store::TestTime time;
  std::unique_ptr<store::Counters> counters = store::memory_counters(time.clock());
  Lengths lengths;
  Inner inner;
  Ledger ledger;
  std::unique_ptr<Limits> limits;
  std::optional<MeteredEmbedder> embedder;
  std::optional<MeteredReranker> reranker;
  std::shared_ptr<engine::Notes> notes;
  std::optional<std::expected<engine::Embeddings, Refusal>> answer;
};

TEST_F(MeteredReadersTest, TextsAreReservedAndSettledToWhatWasRead) {
  embed(texts({"0123456789", std::vector<std::int32_t>{1, 2, 3}}));
  EXPECT_EQ(left(), 87);
  EXPECT_EQ(notes->front(), (std::pair<std::string, std::string>("x-ratelimit-limit-tokens", "100")));
  inner.embedded(engine::Embeddings{.prompt_tokens = 11});
  ASSERT_TRUE(answer && answer->has_value());
  EXPECT_EQ(left(), 89);
  ASSERT_EQ(ledger.records.size(), 1u);
  EXPECT_EQ(ledger.records[0].use, (TokenUse{.prompt = 11}));
  EXPECT_EQ(ledger.records[0].cost, 11 * 10'000);
  EXPECT_EQ(ledger.records[0].subject.user, "ann");
}

TEST_F(MeteredReadersTest, WhatIsCutOffIsNotReserved) {
  embed(texts({std::string(60, 'x'), std::string(60, 'y')}, 0));
  EXPECT_EQ(left(), 60) << "what the model reads of each";
  inner.embedded(engine::Embeddings{.prompt_tokens = 40});
  embed(texts({std::string(60, 'x')}, 5));
  EXPECT_EQ(left(), 55);
  inner.embedded(engine::Embeddings{.prompt_tokens = 5});
  lengths.known = false;
  embed(texts({"0123456789"}));
  EXPECT_EQ(left(), 55 - 18) << "no more tokens than bytes, and some around them";
}

TEST_F(MeteredReadersTest, WhoGetsNothingPaysNothing) {
  embed(texts({"0123456789"}));
  inner.embedded(std::unexpected(Refusal{.error = {Code::invalid, "too long"}}));
  EXPECT_TRUE(ledger.records.empty());
  embed(texts({"0123456789"}));
  inner.embedded(std::unexpected(Refusal{.error = {Code::cancelled, "left"}}));
  embed(texts({"0123456789"}));
  inner.embedded(std::unexpected(Refusal{.error = {Code::unavailable, "no"}}));
  ASSERT_EQ(ledger.records.size(), 2u);
  EXPECT_EQ(ledger.records[0].end, End::dropped);
  EXPECT_EQ(ledger.records[1].end, End::failed);
  EXPECT_EQ(ledger.records[1].use, TokenUse{});
  EXPECT_EQ(left(), 100);
}

TEST_F(MeteredReadersTest, RefusesAsGeneratorsDo) {
  embed(texts({std::string(101, 'x')}));
  ASSERT_TRUE(answer && !answer->has_value());
  EXPECT_EQ(answer->error().error.code, Code::invalid) << "it never fits";
  embed(texts({std::string(90, 'x')}));
  inner.embedded(engine::Embeddings{.prompt_tokens = 90});
  embed(texts({std::string(20, 'x')}));
  EXPECT_EQ(answer->error().reason, "rate_limit_exceeded");
  EXPECT_FALSE(notes->empty()) << "the headers tell what is left";
  ledger.full = true;
  embed(texts({"x"}));
  EXPECT_EQ(answer->error().error.code, Code::unavailable) << "money that cannot be accounted for";
  EXPECT_EQ(left(), 10);
}

TEST_F(MeteredReadersTest, PairsOfAQueryAndADocumentAreCounted) {
  engine::RerankRequest request{
      .model = "e", .query = "1234", .documents = {"123", std::string(50, 'x')}, .document_tokens = 10};
  request.sender.user = "ann";
  std::optional<std::expected<engine::Ranking, Refusal>> ranking;
  reranker->rerank(std::move(request), [&](auto got) { ranking = std::move(got); });
  EXPECT_EQ(left(), 100 - (4 + 3 + 8) - (4 + 10 + 8));
  inner.ranked(engine::Ranking{.scores = {1, 2}, .prompt_tokens = 25});
  ASSERT_TRUE(ranking && ranking->has_value());
  EXPECT_EQ(left(), 75);
  EXPECT_EQ(ledger.records.at(0).use.prompt, 25);
}

}  // namespace
}  // namespace ashlar::gateway
