#include "gateway/limits/metered_generator.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <thread>

#include "base/json_full.h"
#include "store/counters_for_test.h"

namespace ashlar::gateway {
namespace {

using engine::Event;
using End = UsageRecord::End;

// A generator whose events a test sends, from any thread. Bytes are tokens.
class Inner final : public engine::Generator {
 public:
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink& sink) override {
    if (refuse) return std::unexpected(Refusal{.error = {Code::unavailable, "full"}});
    const std::lock_guard lock(mutex);
    seen.push_back(request);
    sinks[request.id] = std::make_shared<Call>(&sink);
    if (at_once)
      for (const Event& event : *at_once) sink.on(event);
    return std::make_unique<HeldTicket>(*this, request.id, sinks[request.id]);
  }
  std::vector<engine::ModelCard> models() const override { return {{.id = "m", .context = context}}; }
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt& prompt, bool) const override {
    if (!tokenizes) return Error{Code::unsupported, "an upstream has its tokenizer elsewhere"};
    return engine::Tokenized{
        .ids = std::vector<std::int32_t>(std::get<std::string>(prompt.input).size()), .pieces = {}, .context = context};
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>&) const override { return ""; }
  Result<std::string> render(const std::string&, const engine::Chat&) const override { return ""; }
  Load load() const override { return {}; }

  // False: its ticket is gone.
  bool emit(const std::string& id, const Event& event) {
    std::shared_ptr<Call> call;
    {
      const std::lock_guard lock(mutex);
      const auto found = sinks.find(id);
      if (found == sinks.end()) return false;
      call = found->second;
    }
    const std::lock_guard in_call(call->mutex);
    if (call->sink == nullptr) return false;
    call->sink->on(event);
    if (std::holds_alternative<engine::Finished>(event) || std::holds_alternative<engine::Failed>(event))
      call->sink = nullptr;
    return true;
  }

  bool refuse = false, tokenizes = true;
  int context = 1000;
  std::optional<std::vector<Event>> at_once;  // before start() returns
  std::vector<engine::Request> seen;

 private:
  struct Call {
    explicit Call(engine::Sink* s) : sink(s) {}
    std::mutex mutex;
    engine::Sink* sink;
  };
  struct HeldTicket final : engine::Ticket {
    HeldTicket(Inner& i, std::string n, std::shared_ptr<Call> c) : inner(i), id(std::move(n)), call(std::move(c)) {}
    ~HeldTicket() override {
      {
        const std::lock_guard in_call(call->mutex);
        call->sink = nullptr;
      }
      const std::lock_guard lock(inner.mutex);
      inner.sinks.erase(id);
    }
    Inner& inner;
    const std::string id;
    const std::shared_ptr<Call> call;
  };
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Call>> sinks;
};

class Ledger final : public UsageLedger {
 public:
  void record(const UsageRecord& record) override {
    const std::lock_guard lock(mutex);
    records.push_back(record);
  }
  Result<std::shared_ptr<OpenUsage>> open(const UsageRecord&, const std::optional<Price>& price,
                                          std::span<const Measure> measures) override {
    if (full) return Error{Code::unavailable, "no room"};
    if (!keeps_open) return nullptr;
    EXPECT_TRUE(price);
    EXPECT_EQ(measures.size(), 4u);
    return std::make_shared<Open>(*this);
  }
  // What is kept of a request that runs.
  class Open final : public OpenUsage {
   public:
    explicit Open(Ledger& ledger) : ledger_(ledger) {}
    ~Open() override {
      ++ledger_.closed;
      if (ended_) ledger_.record(*ended_);
    }
    void prompt(const TokenUse& use) override { ledger_.prompt = {use.prompt, use.cached}; }
    std::atomic<std::uint64_t>& delivered() override { return ledger_.delivered; }
    void end(UsageRecord record) override { ended_ = std::move(record); }
    void also(std::uint32_t count) override { ledger_.also = count; }
    void hold(std::shared_ptr<const void> held) override { held_ = std::move(held); }

   private:
    std::shared_ptr<const void> held_;
    Ledger& ledger_;
    std::optional<UsageRecord> ended_;
  };

  bool keeps_open = false, full = false;
  int closed = 0;
  std::uint32_t also = 0;
  std::pair<std::int64_t, std::int64_t> prompt;
  std::atomic<std::uint64_t> delivered = 0;
  std::mutex mutex;
  std::vector<UsageRecord> records;
};

class Heard final : public engine::Sink {
 public:
  void on(Event event) override { events.push_back(std::move(event)); }
  std::vector<Event> events;
};

class MeteredTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = Limits::create(*read_limits(R"(
limits:
  - {scope: tenant, name: tpd, capacity: 10000, period: 24h}
  - {scope: tenant, name: rpm, measure: requests, capacity: 100000, period: 1m}
  - {scope: model, name: seats, kind: semaphore, capacity: 50}
  - {scope: tenant, name: all, kind: budget, dollars: 0.01}
prices: [{model: m, input: 1, cached_input: 0.5, output: 2}])"),
                               *counters, {.clock = time.clock()});
    ASSERT_TRUE(made) << made.error().message;
    limits = std::move(*made);
    metered = std::make_unique<MeteredGenerator>(inner, *limits, ledger);
  }
  engine::Request request(const std::string& id, std::string prompt, int most) {
    engine::Request out{.id = id, .model = "m", .tenant = "t"};
    out.prompt.input = std::move(prompt);
    out.stopping.max_tokens = most;
    return out;
  }
  // What is left of the day's tokens.
  std::int64_t left() { return limits->numbers({.tenant = "t"}, "m")->tokens->remaining; }
  static Event text(int tokens) {
    return engine::Text{.text = std::string(static_cast<std::size_t>(tokens), 'x'),
                        .ids = std::vector<std::int32_t>(static_cast<std::size_t>(tokens))};
  }

  store::TestTime time;
  std::unique_ptr<store::Counters> counters = store::memory_counters(time.clock());
  Inner inner;
  Ledger ledger;
  Heard heard;
  std::unique_ptr<Limits> limits;
  std::unique_ptr<MeteredGenerator> metered;
};

TEST_F(MeteredTest, ReservesTheMostAndSettlesWhatWasUsed) {
  auto ticket = metered->start(request("a", "0123456789", 100), heard);
  ASSERT_TRUE(ticket);
  EXPECT_EQ(left(), 10'000 - 110);
  inner.emit("a", engine::Started{.prompt_tokens = 10, .cached_tokens = 4});
  inner.emit("a", text(3));
  inner.emit("a", engine::ChoiceEnd{});
  EXPECT_EQ(left(), 10'000 - 110);
  inner.emit("a",
             engine::Finished{
                 .usage = {.prompt_tokens = 10, .completion_tokens = 5, .cached_tokens = 4, .reasoning_tokens = 2}});
  EXPECT_EQ(left(), 10'000 - 15);
  ticket->reset();
  ASSERT_EQ(ledger.records.size(), 1u);
  const UsageRecord& record = ledger.records[0];
  EXPECT_EQ(record.request, "a");
  EXPECT_EQ(record.subject.tenant, "t");
  EXPECT_EQ(record.end, End::finished);
  EXPECT_EQ(record.use, (TokenUse{.prompt = 10, .cached = 4, .completion = 5, .reasoning = 2}));
  EXPECT_EQ(record.cost, 6'000 + 2'000 + 10'000);
  EXPECT_EQ(heard.events.size(), 4u) << "everything is passed on";
  EXPECT_EQ(inner.seen[0].stopping.max_tokens, 100);
}

TEST_F(MeteredTest, WritesToACacheHaveTheirOwnPrice) {
  auto dear = *read_limits(R"(
limits: [{scope: tenant, name: all, kind: budget, dollars: 0.01}]
prices: [{model: m, input: 1, cached_input: 0.5, cache_write: 1.25, cache_write_1h: 2, output: 2}])");
  ASSERT_TRUE(limits->apply(std::move(dear)));
  auto asked = request("a", "0123456789", 100);
  asked.sender.request_id = "client-7";
  auto ticket = metered->start(std::move(asked), heard);
  ASSERT_TRUE(ticket);
  inner.emit("a", engine::Started{.prompt_tokens = 10, .cached_tokens = 4, .written_tokens = 5, .hour_tokens = 2});
  inner.emit("a", text(3));
  inner.emit("a", engine::ChoiceEnd{});
  inner.emit(
      "a",
      engine::Finished{
          .usage = {
              .prompt_tokens = 10, .completion_tokens = 5, .cached_tokens = 4, .written_tokens = 5, .hour_tokens = 2}});
  ticket->reset();
  ASSERT_EQ(ledger.records.size(), 1u);
  EXPECT_EQ(ledger.records[0].use, (TokenUse{.prompt = 10, .cached = 4, .written = 5, .hour = 2, .completion = 5}));
  EXPECT_EQ(ledger.records[0].cost, 1'000 + 2'000 + 3'750 + 4'000 + 10'000);
  EXPECT_EQ(ledger.records[0].given_id, "client-7");
}

TEST_F(MeteredTest, AnAliasCountsAsWhatItStandsFor) {
  auto asked = request("a", "0123456789", 100);
  asked.model = "alias";
  asked.sender.counted_as = "m";
  auto ticket = metered->start(std::move(asked), heard);
  ASSERT_TRUE(ticket);
  EXPECT_EQ(limits->numbers({.tenant = "t"}, "m")->tokens->remaining, 10'000 - 110);
  inner.emit("a", engine::Started{.prompt_tokens = 10, .deployment = "chat/2"});
  inner.emit("a", text(3));
  inner.emit("a", engine::Finished{.usage = {.prompt_tokens = 10, .completion_tokens = 3}});
  ticket->reset();
  ASSERT_EQ(ledger.records.size(), 1u);
  EXPECT_EQ(inner.seen[0].model, "alias") << "who answers knows it by this name";
  EXPECT_EQ(ledger.records[0].model, "m");
  EXPECT_EQ(ledger.records[0].cost, 10'000 + 6'000);
  EXPECT_EQ(ledger.records[0].deployment, "chat/2");
  ASSERT_TRUE(ledger.records[0].first_seconds);
  EXPECT_LE(*ledger.records[0].first_seconds, ledger.records[0].seconds);
}

TEST_F(MeteredTest, WhatWasKeptCostsNothingAndIsToldApart) {
  auto ticket = metered->start(request("a", "0123456789", 100), heard);
  ASSERT_TRUE(ticket);
  inner.emit("a", engine::Started{.prompt_tokens = 10});
  inner.emit("a", text(5));
  inner.emit("a", engine::Finished{.usage = {.prompt_tokens = 10, .completion_tokens = 5, .kept = true}});
  ticket->reset();
  EXPECT_EQ(left(), 10'000);
  ASSERT_EQ(ledger.records.size(), 1u);
  EXPECT_EQ(ledger.records[0].end, End::kept);
  EXPECT_EQ(ledger.records[0].use.completion, 5) << "what the client got";
  EXPECT_EQ(ledger.records[0].cost, 0);
}

TEST_F(MeteredTest, WhereABudgetHasNoRoomAnotherModelAnswers) {
  std::vector<std::string> others = {"unknown", "small"};
  limits = *Limits::create(*read_limits(R"(
limits: [{scope: tenant, name: all, kind: budget, dollars: 0.0001}, {scope: model, who: unknown, name: none, capacity: 1, period: 1m}]
prices: [{model: m, input: 1, output: 2}, {model: unknown, input: 1, output: 2}])"),
                           *counters, {.clock = time.clock()});
  MeteredGenerator other(inner, *limits, ledger, {.instead = [&](const std::string& model) {
                           EXPECT_EQ(model, "m");
                           return others;
                         }});
  auto ticket = other.start(request("a", "0123456789", 100), heard);
  ASSERT_TRUE(ticket) << ticket.error().error.message;
  EXPECT_EQ(inner.seen.back().model, "small");
  inner.emit("a", engine::Finished{.usage = {.prompt_tokens = 10, .completion_tokens = 5}});
  ticket->reset();
  EXPECT_EQ(ledger.records.back().model, "small");
  EXPECT_EQ(ledger.records.back().cost, 0);
  others = {};
  const auto refused = other.start(request("b", "0123456789", 100), heard);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().reason, "insufficient_quota");
}

TEST_F(MeteredTest, WhoLeavesPaysForWhatCame) {
  {
    auto ticket = metered->start(request("a", "0123456789", 100), heard);
    inner.emit("a", engine::Started{.prompt_tokens = 10});
    inner.emit("a", text(7));
  }
  EXPECT_EQ(left(), 10'000 - 17);
  {
    auto unstarted = metered->start(request("b", "0123456789", 100), heard);
  }
  EXPECT_EQ(left(), 10'000 - 17) << "what had not begun is free";
  ASSERT_EQ(ledger.records.size(), 2u);
  EXPECT_EQ(ledger.records[0].end, End::dropped);
  EXPECT_EQ(ledger.records[0].use.completion, 7);
  EXPECT_EQ(ledger.records[1].cost, 0);
}

TEST_F(MeteredTest, WhoLeavesPaysWhatTheirServerCountedWithThePieces) {
  {
    auto ticket = metered->start(request("a", "0123456789", 100), heard);
    inner.emit("a", engine::Started{.prompt_tokens = 10});
    inner.emit("a", engine::Reasoning{.text = "a long way round", .counted = 3});
    inner.emit("a", engine::Text{.text = "uncounted, of four"});
    inner.emit("a", engine::Text{.text = "the rest", .counted = 9});
    inner.emit("a", engine::ToolCall{.id = "1", .name = "f", .counted = 12});
  }
  EXPECT_EQ(left(), 10'000 - 22);
  EXPECT_EQ(ledger.records.at(0).use.completion, 12);
}

TEST_F(MeteredTest, FailuresAreFreeUnlessTextCame) {
  auto early = metered->start(request("a", "0123456789", 100), heard);
  inner.emit("a", engine::Started{.prompt_tokens = 10});
  inner.emit("a", engine::Failed{{Code::internal, "no"}});
  EXPECT_EQ(left(), 10'000);
  auto late = metered->start(request("b", "0123456789", 100), heard);
  inner.emit("b", engine::Started{.prompt_tokens = 10});
  inner.emit("b", engine::Text{.text = "nine char"});  // from an upstream that gives no tokens
  inner.emit("b", engine::Failed{{Code::internal, "no"}});
  EXPECT_EQ(left(), 10'000 - 13);
  early->reset();
  late->reset();
  ASSERT_EQ(ledger.records.size(), 2u);
  EXPECT_EQ(ledger.records[0].end, End::failed);
  EXPECT_EQ(ledger.records[1].cost, 16'000);
}

TEST_F(MeteredTest, ARefusalOfTheGeneratorReleases) {
  inner.refuse = true;
  EXPECT_FALSE(metered->start(request("a", "0123456789", 100), heard));
  EXPECT_EQ(left(), 10'000);
  EXPECT_TRUE(ledger.records.empty());
}

TEST_F(MeteredTest, RefusalsSayWhatTheApiMustTell) {
  RateNumbers numbers;
  auto over = metered->start_for({.tenant = "t"}, request("a", "x", 20'000), heard, &numbers);
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().error.code, Code::invalid) << "more than a day's tokens";
  EXPECT_EQ(numbers.tokens->limit, 10'000);
  auto dear = metered->start(request("a", "x", 6'000), heard);
  ASSERT_FALSE(dear);
  EXPECT_EQ(dear.error().reason, "insufficient_quota");
  EXPECT_EQ(dear.error().error.code, Code::exhausted);
}

TEST_F(MeteredTest, AnOpenAnswerGetsTheContextOrWhatIsLeft) {
  auto fits = metered->start(request("a", "0123456789", -1), heard);
  ASSERT_TRUE(fits);
  EXPECT_EQ(inner.seen.back().stopping.max_tokens, -1) << "the context bounds it";
  EXPECT_EQ(left(), 10'000 - 1'000);
  fits->reset();
  inner.context = 100'000;
  auto open = metered->start(request("b", "0123456789", -1), heard);
  ASSERT_TRUE(open) << open.error().error.message;
  EXPECT_EQ(inner.seen.back().stopping.max_tokens, 4'995) << "a cent less the prompt, two microdollars a token";
  open->reset();
  inner.tokenizes = false;
  auto unknown = metered->start(request("c", "0123456789", -1), heard);
  ASSERT_TRUE(unknown);
  EXPECT_EQ(inner.seen.back().stopping.max_tokens, 4096) << "the answer is bounded by what was reserved";
}

TEST_F(MeteredTest, EventsMayComeBeforeStartReturns) {
  inner.at_once = {engine::Started{.prompt_tokens = 3}, text(2),
                   engine::Finished{.usage = {.prompt_tokens = 3, .completion_tokens = 2}}};
  auto ticket = metered->start(request("a", "abc", 10), heard);
  ASSERT_TRUE(ticket);
  EXPECT_EQ(left(), 10'000 - 5);
  EXPECT_EQ(heard.events.size(), 3u);
}

TEST_F(MeteredTest, HostileUsageCountsNothingBelowZero) {
  auto ticket = metered->start(request("a", "abc", 10), heard);
  inner.emit("a", engine::Finished{.usage = {.prompt_tokens = -3, .completion_tokens = -2, .cached_tokens = -1}});
  EXPECT_EQ(left(), 10'000);
  EXPECT_EQ(ledger.records[0].cost, 0);
}

// A sink that looks at the account when it hears.
class Watching final : public engine::Sink {
 public:
  explicit Watching(std::function<std::uint64_t()> look) : look_(std::move(look)) {}
  void on(Event) override { seen.push_back(look_()); }
  std::vector<std::uint64_t> seen;

 private:
  const std::function<std::uint64_t()> look_;
};

TEST_F(MeteredTest, TheAccountIsAheadOfWhoeverHearsTheEvents) {
  ledger.keeps_open = true;
  Watching sink([this] { return ledger.delivered.load(); });
  auto ticket = metered->start(request("a", "0123456789", 100), sink);
  inner.emit("a", engine::Started{.prompt_tokens = 10, .cached_tokens = 4});
  inner.emit("a", text(3));
  inner.emit("a", engine::Reasoning{.text = "nine char"});
  inner.emit("a", engine::ToolCall{.name = "f", .arguments = "{}"});
  inner.emit("a", engine::Finished{.usage = {.prompt_tokens = 10, .completion_tokens = 9}});
  EXPECT_EQ(sink.seen, (std::vector<std::uint64_t>{0, 3, 6, 8, OpenUsage::kAll}));
  EXPECT_EQ(ledger.prompt, (std::pair<std::int64_t, std::int64_t>(10, 4)));
  ticket->reset();
  ASSERT_EQ(ledger.records.size(), 1u);
  EXPECT_EQ(ledger.records[0].use.completion, 9);
}

TEST_F(MeteredTest, WhoeverSendsTheAnswerMovesTheAccount) {
  ledger.keeps_open = true;
  auto asked = request("a", "0123456789", 100);
  const auto delivery = asked.delivery = std::make_shared<engine::Delivery>();
  Watching sink([&] { return delivery->value; });
  auto ticket = metered->start(std::move(asked), sink);
  ASSERT_EQ(delivery->count.get(), &ledger.delivered);
  inner.emit("a", engine::Started{.prompt_tokens = 10});
  inner.emit("a", text(3));
  inner.emit("a", engine::Finished{.usage = {.prompt_tokens = 10, .completion_tokens = 4}});
  EXPECT_EQ(sink.seen, (std::vector<std::uint64_t>{0, 3, OpenUsage::kAll}));
  EXPECT_EQ(ledger.delivered, 0u) << "none of it is out";
  ticket->reset();
  EXPECT_TRUE(ledger.records.empty()) << "its last piece is on its way";
  delivery->count = nullptr;
  EXPECT_EQ(ledger.records.size(), 1u);
}

TEST_F(MeteredTest, WhatDoesNotRunIsNotKeptOpen) {
  ledger.keeps_open = true;
  inner.refuse = true;
  EXPECT_FALSE(metered->start(request("a", "0123456789", 100), heard));
  EXPECT_EQ(ledger.closed, 1);
  EXPECT_TRUE(ledger.records.empty());
  inner.refuse = false;
  ledger.full = true;
  auto refused = metered->start(request("b", "0123456789", 100), heard);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error.code, Code::unavailable) << "it costs money";
  EXPECT_EQ(left(), 10'000);
}

TEST_F(MeteredTest, OneRecordForEachWhateverTheOrderOfThreads) {
  ASSERT_TRUE(limits->apply(*read_limits(R"(
limits: [{scope: tenant, name: tpd, capacity: 1000000, period: 24h}, {scope: model, name: seats, kind: semaphore, capacity: 50}]
prices: [{model: m, input: 1, output: 1}])")));
  std::vector<std::jthread> clients;
  std::atomic<std::int64_t> admitted = 0;
  for (int t = 0; t < 4; ++t)
    clients.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      for (int i = 0; i < 200; ++i) {
        Heard mine;
        const std::string id = std::to_string(t) + "-" + std::to_string(i);
        auto ticket = metered->start(request(id, "abc", 10), mine);
        if (!ticket) continue;
        ++admitted;
        std::jthread generator([&, end = random() % 3] {
          inner.emit(id, engine::Started{.prompt_tokens = 3});
          for (int n = 0; n < 3; ++n) inner.emit(id, text(1));
          if (end == 0) inner.emit(id, engine::Failed{{Code::internal, "no"}});
          if (end == 1) inner.emit(id, engine::Finished{.usage = {.prompt_tokens = 3, .completion_tokens = 3}});
        });
        if (random() % 2 == 0) generator.join();
        ticket->reset();
      }
    });
  clients.clear();
  EXPECT_EQ(static_cast<std::int64_t>(ledger.records.size()), admitted);
  std::int64_t sum = 0, cost = 0;
  for (const UsageRecord& record : ledger.records) sum += record.use.total(), cost += record.cost;
  EXPECT_EQ(left(), 1'000'000 - sum) << "the limits and the ledger agree to the token";
  EXPECT_EQ(cost, 1000 * sum);
}

}  // namespace
}  // namespace ashlar::gateway
