#include "engine/residents.h"

#include <gmock/gmock.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <thread>

namespace ashlar::engine {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

// What a model's requests were and how many of it there are.
struct Ledger {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, int> alive, loads;
  std::vector<std::string> started;
  template <class F>
  bool wait(F holds) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(20), [&] { return holds(*this); });
  }
  template <class F>
  void change(F by) {
    const std::lock_guard lock(mutex);
    by(*this);
    changed.notify_all();
  }
};

class FakeGenerator : public Generator {
 public:
  FakeGenerator(std::string name, Ledger& ledger) : name_(std::move(name)), ledger_(ledger) {
    ledger_.change([&](Ledger& l) { ++l.alive[name_], ++l.loads[name_]; });
  }
  ~FakeGenerator() override {
    ledger_.change([&](Ledger& l) { --l.alive[name_]; });
  }
  std::expected<std::unique_ptr<Ticket>, Refusal> start(Request request, Sink& sink) override {
    if (request.id == "refused") return std::unexpected(Refusal{.error = {Code::invalid, "no"}});
    ledger_.change([&](Ledger& l) { l.started.push_back(name_ + " " + request.id); });
    sink.on(Started{});
    return std::make_unique<Ticket>();
  }
  std::vector<ModelCard> models() const override {
    std::vector<ModelCard> cards{{.id = name_, .context = 77, .embedding = name_ == "reads" ? 1 : 0}};
    for (const auto& [name, path] : adapters_) cards.push_back({.id = name, .parent = name_, .root = path});
    return cards;
  }
  void load_adapter(AdapterOrder order, std::function<void(Status)> done) override {
    if (order.path == "spoilt" && ledger_.loads[name_] > 1) return done(Error{Code::corrupt, "spoilt"});
    adapters_[order.name] = order.path;
    done({});
  }
  Status unload_adapter(const std::string& name) override {
    if (adapters_.erase(name) == 0) return Error{Code::not_found, "no"};
    return {};
  }
  Result<Tokenized> tokenize(const std::string&, const Prompt&, bool) const override {
    return Tokenized{.context = 77};
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>&) const override { return name_; }
  Result<std::string> render(const std::string&, const Chat&) const override { return name_; }
  Load load() const override { return {.running = 1}; }

 private:
  const std::string name_;
  Ledger& ledger_;
  std::map<std::string, std::string> adapters_;
};

// Answers when it is told to, or when it dies, from a thread of its own.
class FakeEmbedder : public Embedder {
 public:
  ~FakeEmbedder() override {
    for (auto& done : waiting_) answer(done, std::unexpected(Generator::Refusal{.error = {Code::unavailable, "gone"}}));
  }
  void embed(EmbedRequest request, Done done) override {
    if (request.inputs.empty()) return done(std::unexpected(Generator::Refusal{.error = {Code::invalid, "no input"}}));
    waiting_.push_back(std::move(done));
  }
  void go_on() {
    for (auto& done : std::exchange(waiting_, {})) answer(done, Embeddings{.dimensions = 1, .values = {1}});
  }

 private:
  static void answer(Done& done, std::expected<Embeddings, Generator::Refusal> what) {
    std::thread([&] { done(std::move(what)); }).join();
  }
  std::vector<Done> waiting_;
};

class CountingSink : public Sink {
 public:
  void on(Event event) override {
    const std::lock_guard lock(mutex_);
    if (const auto* failed = std::get_if<Failed>(&event)) failures_.push_back(failed->error.message);
    ++events_;
    changed_.notify_all();
  }
  int wait_for(int events) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return events_ >= events; });
    return events_;
  }
  std::vector<std::string> failures() {
    const std::lock_guard lock(mutex_);
    return failures_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int events_ = 0;
  std::vector<std::string> failures_;
};

class ResidentsTest : public testing::Test {
 protected:
  ResidentModel model(const std::string& name, Bytes bytes = {1}) {
    return {.card = {.id = name}, .bytes = bytes, .load = [this, name]() -> Result<Resident> {
              if (name == "broken") return Error{Code::corrupt, "broken: no"};
              return Resident{.generator = std::make_shared<FakeGenerator>(name, ledger)};
            }};
  }
  std::unique_ptr<Residents> make(std::vector<std::string> names, ResidencyOptions options) {
    std::vector<ResidentModel> all;
    for (const auto& name : names) all.push_back(model(name));
    return std::move(*Residents::create(std::move(all), std::move(options)));
  }
  static std::unique_ptr<Ticket> ask(Residents& residents, const std::string& name, Sink& sink,
                                     const std::string& id = "1") {
    auto ticket = residents.start({.id = id, .model = name}, sink);
    EXPECT_TRUE(ticket);
    return ticket ? std::move(*ticket) : nullptr;
  }

  Ledger ledger;
};

TEST_F(ResidentsTest, LoadsWhatIsAskedForAndKeepsIt) {
  const auto residents = make({"a", "b"}, {});
  EXPECT_TRUE(residents->loaded().empty());
  EXPECT_EQ(residents->models()[1].id, "b");
  CountingSink sink;
  auto ticket = ask(*residents, "b", sink);
  EXPECT_EQ(sink.wait_for(1), 1);
  EXPECT_THAT(residents->loaded(), ElementsAre("b"));
  EXPECT_EQ(residents->models()[1].context, 77);
  ticket = ask(*residents, "b", sink);
  EXPECT_EQ(sink.wait_for(2), 2);
  EXPECT_EQ(ledger.loads["b"], 1);
  EXPECT_EQ(residents->detokenize("a", {}), "a");
  EXPECT_EQ(residents->load().running, 2);
  EXPECT_EQ(residents->start({.model = "c"}, sink).error().error.code, Code::not_found);
}

TEST_F(ResidentsTest, TheLongestUnusedLeavesForAnother) {
  const auto residents = make({"a", "b", "c"}, {.max_loaded = 2});
  for (const auto name : {"a", "b", "a", "c"}) ASSERT_TRUE(residents->preload(name));
  EXPECT_THAT(residents->loaded(), ElementsAre("a", "c"));
  ASSERT_TRUE(residents->preload("b"));
  EXPECT_THAT(residents->loaded(), ElementsAre("b", "c"));
  EXPECT_EQ(ledger.loads["b"], 2);
}

TEST_F(ResidentsTest, IdleOnesLeaveWhenTheyAreToldAndComeBack) {
  const auto residents = make({"a", "b"}, {});
  CountingSink sink;
  ASSERT_TRUE(residents->preload("a"));
  auto ticket = ask(*residents, "b", sink);
  EXPECT_EQ(sink.wait_for(1), 1);
  residents->unload_idle();
  EXPECT_TRUE(ledger.wait([](Ledger& l) { return l.alive["a"] == 0; }));
  EXPECT_THAT(residents->loaded(), ElementsAre("b"));
  ASSERT_TRUE(residents->preload("a"));
  EXPECT_EQ(ledger.loads["a"], 2);
  EXPECT_EQ(ledger.loads["b"], 1);
}

TEST_F(ResidentsTest, MemoryThatIsShortMakesRoom) {
  std::atomic<std::uint64_t> available = 100;
  auto residents =
      *Residents::create({model("a", {60}), model("b", {60})}, {.available = [&] { return Bytes{available}; }});
  ASSERT_TRUE(residents->preload("a"));
  available = 40;
  ASSERT_TRUE(residents->preload("b"));
  EXPECT_THAT(residents->loaded(), ElementsAre("b"));
}

TEST_F(ResidentsTest, WhatCannotBeLoadedForWantOfMemoryIsTriedAgainWithoutTheOthers) {
  auto wants_all = model("b");
  wants_all.load = [this]() -> Result<Resident> {
    if (ledger.alive["a"] > 0) return Error{Code::exhausted, "no memory"};
    return Resident{.generator = std::make_shared<FakeGenerator>("b", ledger)};
  };
  auto residents = *Residents::create({model("a"), wants_all}, {});
  ASSERT_TRUE(residents->preload("a"));
  ASSERT_TRUE(residents->preload("b"));
  EXPECT_THAT(residents->loaded(), ElementsAre("b"));
}

TEST_F(ResidentsTest, AModelInUseStaysUntilItsAnswersEnd) {
  const auto residents = make({"a", "b"}, {.max_loaded = 1});
  CountingSink first, second, third;
  auto using_a = ask(*residents, "a", first);
  first.wait_for(1);
  auto wants_b = ask(*residents, "b", second);
  // The next for "a" waits its turn, so that "b" gets one.
  ASSERT_TRUE(ledger.wait([&](Ledger&) { return residents->load().waiting == 1; }));
  EXPECT_EQ(ledger.loads["b"], 0);
  using_a.reset();
  EXPECT_EQ(second.wait_for(1), 1);
  EXPECT_THAT(residents->loaded(), ElementsAre("b"));
  auto wants_a = ask(*residents, "a", third);
  wants_b.reset();
  EXPECT_EQ(third.wait_for(1), 1);
}

TEST_F(ResidentsTest, IdleModelsLeaveAfterTheirTime) {
  const auto residents = make({"a"}, {.keep_alive = milliseconds(0)});
  CountingSink sink;
  auto ticket = ask(*residents, "a", sink);
  sink.wait_for(1);
  EXPECT_THAT(residents->loaded(), ElementsAre("a"));
  ticket.reset();
  EXPECT_TRUE(ledger.wait([](Ledger& l) { return l.alive["a"] == 0; }));
  ticket = ask(*residents, "a", sink);
  EXPECT_EQ(sink.wait_for(2), 2);
  EXPECT_EQ(ledger.loads["a"], 2);
}

TEST_F(ResidentsTest, ARequestSaysHowLongItsModelStays) {
  const auto residents = make({"a", "b"}, {.keep_alive = std::chrono::hours(1)});
  const auto ask_for = [&](const std::string& name, KeepAlive keep_alive) {
    CountingSink sink;
    Request request{.id = "1", .model = name};
    request.keep_alive = keep_alive;
    const auto ticket = residents->start(std::move(request), sink);
    ASSERT_TRUE(ticket);
    EXPECT_EQ(sink.wait_for(1), 1);
  };
  const auto gone = [&](const std::string& name) { return ledger.wait([&](Ledger& l) { return l.alive[name] == 0; }); };
  ask_for("a", milliseconds(0));
  EXPECT_TRUE(gone("a")) << "loaded for it, it leaves after the answer";
  ask_for("a", {});
  ask_for("b", milliseconds(0));
  EXPECT_TRUE(gone("b"));
  EXPECT_THAT(residents->loaded(), ElementsAre("a")) << "back in memory it stays as the options say";
  ask_for("a", milliseconds(-1));
  ask_for("a", milliseconds(0));
  EXPECT_TRUE(gone("a")) << "the latest that says so counts";
  // What waits while the model leaves is heard after it has come back.
  ask_for("a", {});
  ask_for("a", milliseconds(0));
  ask_for("a", milliseconds(-1));
  ask_for("b", milliseconds(0));
  EXPECT_TRUE(gone("b"));
  EXPECT_THAT(residents->loaded(), ElementsAre("a"));
}

TEST_F(ResidentsTest, FailuresReachWhoWaits) {
  const auto residents = make({"broken", "a"}, {});
  CountingSink sink;
  const auto ticket = ask(*residents, "broken", sink);
  EXPECT_EQ(sink.wait_for(1), 1);
  EXPECT_THAT(sink.failures(), ElementsAre("broken: no"));
  EXPECT_EQ(residents->preload("broken").error().code, Code::corrupt);
  CountingSink refused;
  const auto late = ask(*residents, "a", refused, "refused");
  refused.wait_for(1);
  EXPECT_THAT(refused.failures(), ElementsAre("no"));
  EXPECT_EQ(residents->start({.id = "refused", .model = "a"}, refused).error().error.message, "no");
}

TEST_F(ResidentsTest, ADroppedRequestIsNotStarted) {
  std::mutex gate;
  auto slow = model("a");
  slow.load = [&]() -> Result<Resident> {
    const std::lock_guard lock(gate);
    return Resident{.generator = std::make_shared<FakeGenerator>("a", ledger)};
  };
  auto residents = *Residents::create({slow}, {.keep_alive = milliseconds(0)});
  CountingSink sink;
  {
    const std::lock_guard lock(gate);
    ask(*residents, "a", sink).reset();
  }
  EXPECT_TRUE(ledger.wait([](Ledger& l) { return l.loads["a"] == 1 && l.alive["a"] == 0; }));
  EXPECT_EQ(sink.wait_for(0), 0);
  EXPECT_TRUE(ledger.started.empty());
}

TEST_F(ResidentsTest, WhoMayNotWaitIsCalledWhenTheModelIsThere) {
  std::mutex gate;
  auto slow = model("slow");
  slow.load = [&]() -> Result<Resident> {
    const std::lock_guard lock(gate);
    return Resident{.generator = std::make_shared<FakeGenerator>("slow", ledger)};
  };
  const auto residents = *Residents::create({model("a"), slow, model("broken")}, {.max_loaded = 2});
  ASSERT_TRUE(residents->preload("a"));
  std::string at_once;
  std::promise<std::string> later;
  {
    const std::lock_guard lock(gate);
    residents->when_ready("slow", [&](Result<const Generator*> ready) {
      later.set_value(ready ? *(*ready)->render("slow", {}) : ready.error().message);
    });
    residents->when_ready("a", [&](Result<const Generator*> ready) { at_once = *(*ready)->render("a", {}); });
    EXPECT_EQ(at_once, "a");
  }
  EXPECT_EQ(later.get_future().get(), "slow");
  std::promise<Code> failed;
  residents->when_ready("broken", [&](Result<const Generator*> ready) { failed.set_value(ready.error().code); });
  EXPECT_EQ(failed.get_future().get(), Code::corrupt);
  residents->when_ready("nobody",
                        [&](Result<const Generator*> ready) { EXPECT_EQ(ready.error().code, Code::not_found); });
}

TEST_F(ResidentsTest, ManyAskAtOnce) {
  const auto residents = make({"a", "b", "c"}, {.keep_alive = milliseconds(1), .max_loaded = 2});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        CountingSink sink;
        const auto ticket = ask(*residents, std::string(1, static_cast<char>('a' + (i + t) % 3)), sink);
        if (i % 5 != 0) EXPECT_EQ(sink.wait_for(1), 1);
      }
    });
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ResidentsTest, AdaptersComeBackWithTheirModel) {
  const auto residents = make({"a", "b"}, {.max_loaded = 1});
  for (const char* name : {"x", "y", "z"})
    ASSERT_TRUE(add_adapter(*residents, {.name = name, .path = *name == 'z' ? "spoilt" : "path"}));
  EXPECT_THAT(add_adapter(*residents, {.model = "b", .name = "x"}).error().message, HasSubstr("served already"));
  EXPECT_EQ(add_adapter(*residents, {.model = "c", .name = "x"}).error().code, Code::not_found);
  ASSERT_TRUE(residents->preload("b"));
  EXPECT_THAT(residents->loaded(), ElementsAre("b"));
  const auto ids = [&] {
    std::vector<std::string> out;
    for (const ModelCard& card : residents->models()) out.push_back(card.id);
    return out;
  };
  EXPECT_THAT(ids(), ElementsAre("a", "x", "y", "z", "b"));
  // It leaves though its model is not here.
  EXPECT_TRUE(residents->unload_adapter("y"));
  EXPECT_EQ(residents->unload_adapter("y").error().code, Code::not_found);
  EXPECT_THAT(residents->loaded(), ElementsAre("b"));
  CountingSink sink;
  const auto ticket = ask(*residents, "a:x", sink);
  EXPECT_EQ(sink.wait_for(1), 1);
  EXPECT_THAT(ids(), ElementsAre("a", "x", "b"));
  EXPECT_TRUE(residents->unload_adapter("x"));
  EXPECT_FALSE(residents->unload_adapter("a"));
}

TEST_F(ResidentsTest, AModelThatReadsStaysWhileItDoes) {
  std::shared_ptr<FakeEmbedder> reader;
  auto reads = model("reads");
  reads.card.embedding = 1;
  reads.load = [&]() -> Result<Resident> {
    reader = std::make_shared<FakeEmbedder>();
    return Resident{.generator = std::make_shared<FakeGenerator>("reads", ledger), .embedder = reader};
  };
  const auto residents = *Residents::create({model("a"), reads}, {.max_loaded = 1});
  using Answer = std::expected<Embeddings, Generator::Refusal>;
  std::promise<Answer> first;
  residents->embed({.inputs = {"text"}}, [&](Answer answer) { first.set_value(std::move(answer)); });
  ASSERT_TRUE(residents->preload("reads"));
  CountingSink sink;
  const auto wants_a = ask(*residents, "a", sink);
  ASSERT_TRUE(ledger.wait([&](Ledger&) { return residents->load().waiting == 1; }));
  EXPECT_EQ(ledger.loads["a"], 0);
  reader->go_on();
  EXPECT_EQ(first.get_future().get()->dimensions, 1);
  EXPECT_EQ(sink.wait_for(1), 1);
  EXPECT_THAT(residents->loaded(), ElementsAre("a"));
  const auto refusal = [&](const EmbedRequest& request) {
    Code code{};
    residents->embed(request, [&](const Answer& answer) { code = answer.error().error.code; });
    return code;
  };
  EXPECT_EQ(refusal({.model = "a", .inputs = {"text"}}), Code::unsupported);
  EXPECT_EQ(refusal({.model = "c", .inputs = {"text"}}), Code::unsupported);
  residents->rerank({.query = "q"},
                    [](const auto& answer) { EXPECT_EQ(answer.error().error.code, Code::unsupported); });
}

TEST_F(ResidentsTest, TheEndFailsWhoIsRead) {
  auto reads = model("reads");
  reads.card.embedding = 1;
  reads.load = [&]() -> Result<Resident> {
    return Resident{.generator = std::make_shared<FakeGenerator>("reads", ledger),
                    .embedder = std::make_shared<FakeEmbedder>()};
  };
  auto residents = *Residents::create({reads}, {});
  ASSERT_TRUE(residents->preload("reads"));
  Code invalid{}, ended{};
  residents->embed({}, [&](const auto& answer) { invalid = answer.error().error.code; });
  EXPECT_EQ(invalid, Code::invalid);
  residents->embed({.inputs = {"text"}}, [&](const auto& answer) { ended = answer.error().error.code; });
  residents.reset();
  EXPECT_EQ(ended, Code::unavailable);
}

TEST_F(ResidentsTest, TheEndFailsWhoWaits) {
  CountingSink first, second;
  auto residents = make({"a", "b"}, {.max_loaded = 1});
  const auto using_a = ask(*residents, "a", first);
  first.wait_for(1);
  const auto waits = ask(*residents, "b", second);
  residents.reset();
  EXPECT_THAT(second.failures(), ElementsAre(HasSubstr("shutting down")));
}

TEST_F(ResidentsTest, ANewOneTakesTheNameAndTheOldOneEndsItsRequests) {
  const auto residents = make({"a", "b"}, {});
  CountingSink sink;
  auto under_way = ask(*residents, "a", sink);
  ASSERT_EQ(sink.wait_for(1), 1);
  ASSERT_TRUE(add_adapter(*residents, {.model = "a", .name = "tuned", .path = "p"}));
  const auto version = residents->names_version();
  ResidentModel next = model("a");
  next.card.parameters = 2;
  int checked = 0;
  ASSERT_TRUE(residents->put(std::move(next), [&](const Resident& loaded) -> Status {
    EXPECT_EQ(loaded.generator->models().front().id, "a");
    ++checked;
    return {};
  }));
  EXPECT_EQ(checked, 1);
  EXPECT_NE(residents->names_version(), version);
  EXPECT_EQ(ledger.alive["a"], 2);
  // It stands where the old one did, with its adapters.
  EXPECT_EQ(residents->models()[0].id, "a");
  EXPECT_EQ(residents->models()[1].id, "tuned");
  EXPECT_EQ(residents->models()[2].id, "b");
  auto with_new = ask(*residents, "a", sink);
  under_way.reset();
  EXPECT_TRUE(ledger.wait([](Ledger& l) { return l.alive["a"] == 1; }));
  EXPECT_TRUE(sink.failures().empty());
}

TEST_F(ResidentsTest, OneThatCannotBeLoadedOrDoesNotAnswerChangesNothing) {
  const auto residents = make({"a"}, {});
  ASSERT_TRUE(residents->preload("a"));
  ResidentModel broken = model("a");
  broken.load = [] { return Result<Resident>(Error{Code::corrupt, "no"}); };
  EXPECT_EQ(residents->put(broken).error().code, Code::corrupt);
  EXPECT_EQ(residents->put(model("a"), [](const Resident&) -> Status { return Error{Code::internal, "mute"}; })
                .error()
                .message,
            "mute");
  EXPECT_TRUE(ledger.wait([](Ledger& l) { return l.alive["a"] == 1; }));
  EXPECT_EQ(residents->models().size(), 1);
  CountingSink sink;
  const auto ticket = ask(*residents, "a", sink);
  EXPECT_EQ(sink.wait_for(1), 1);
  EXPECT_EQ(residents->put(model("broken")).error().code, Code::corrupt);
  EXPECT_EQ(residents->models().size(), 1);
}

TEST_F(ResidentsTest, OneMoreIsServedAndOneThatIsTakenAwayGoesWithItsLastRequest) {
  const auto residents = make({}, {});
  CountingSink sink;
  EXPECT_EQ(residents->start({.id = "1"}, sink).error().error.code, Code::not_found);
  ASSERT_TRUE(residents->put(model("a")));
  ASSERT_TRUE(residents->add(model("b")));
  EXPECT_EQ(residents->add(model("b")).error().code, Code::invalid);
  EXPECT_THAT(residents->loaded(), ElementsAre("a"));
  auto under_way = ask(*residents, "a", sink);
  ASSERT_TRUE(residents->remove("a"));
  EXPECT_EQ(residents->remove("a").error().code, Code::not_found);
  EXPECT_EQ(residents->models().size(), 1);
  // Whoever has just found it still gets it.
  EXPECT_NE(ask(*residents, "a", sink), nullptr);
  while (residents->start({.id = "2", .model = "a"}, sink)) std::this_thread::yield();
  EXPECT_EQ(ledger.alive["a"], 1);
  under_way.reset();
  EXPECT_TRUE(ledger.wait([](Ledger& l) { return l.alive["a"] == 0; }));
  // And may come again.
  ASSERT_TRUE(residents->put(model("a")));
  EXPECT_EQ(residents->models().size(), 2);
}

TEST_F(ResidentsTest, ReplacedUnderLoadNobodyFails) {
  const auto residents = make({"a"}, {.max_loaded = 1});
  std::atomic<int> refused = 0;
  CountingSink sink;
  {
    std::vector<std::jthread> clients;
    for (int i = 0; i < 3; ++i)
      clients.emplace_back([&](const std::stop_token& stop) {
        while (!stop.stop_requested())
          if (!residents->start({.id = "1", .model = "a"}, sink)) ++refused;
      });
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(residents->put(model("a")));
  }
  EXPECT_EQ(refused, 0);
  EXPECT_TRUE(sink.failures().empty());
  EXPECT_TRUE(ledger.wait([](Ledger& l) { return l.alive["a"] <= 1; }));
}

}  // namespace
}  // namespace ashlar::engine
