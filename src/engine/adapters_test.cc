// Adapters through the engine: who gets which, whose cache is whose, and coming and going while requests run.
#include "engine/adapters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <map>

#include "engine/fakes_for_test.h"
#include "engine/residents.h"

namespace ashlar::engine {
namespace {

using fake::request;
using testing::HasSubstr;

struct FakeAdapter : models::Adapter {
  explicit FakeAdapter(std::string of) : path(std::move(of)) {}
  Bytes bytes() const override { return {1}; }
  std::string path;
};

// Loads whatever is not called "missing", and notes which adapters came with which tokens.
class AdaptedModel : public fake::Model {
 public:
  AdaptedModel() {
    before_forward = [this](const models::Step& step) {
      for (const auto& sequence : step.sequences) {
        const auto* adapter = static_cast<const FakeAdapter*>(sequence.adapter);
        rows_of[adapter == nullptr ? "" : adapter->path] += sequence.rows;
      }
    };
  }
  Result<std::shared_ptr<const models::Adapter>> load_adapter(const std::string& path) const override {
    if (path == "missing") return Error{Code::not_found, path + ": is not there"};
    return std::make_shared<const FakeAdapter>(path);
  }
  std::map<std::string, int> rows_of;  // engine thread; read it when nothing runs
};

struct AdaptedHouse {
  std::shared_ptr<AdaptedModel> model = std::make_shared<AdaptedModel>();
  std::shared_ptr<Engine> engine =
      Engine::create(
          {.names = {"fake"}, .model = model, .tokenizer = std::make_shared<fake::Tokenizer>(), .created = 7}, {})
          .value();

  std::optional<Error> ask(const std::string& name, int& cached) {
    fake::Sink sink;
    Request asked = request(std::string(100, 'q'), 4);
    asked.model = name;
    auto ticket = engine->start(std::move(asked), sink);
    if (!ticket) return ticket.error().error;
    sink.wait();
    cached = sink.started->cached_tokens;
    return std::nullopt;
  }
  int cached(const std::string& name) {
    int tokens = -1;
    const auto error = ask(name, tokens);
    EXPECT_FALSE(error) << error->message;
    return tokens;
  }
  Status load(Generator& generator, AdapterOrder order) {
    std::promise<Status> promise;
    generator.load_adapter(std::move(order), [&](Status status) { promise.set_value(std::move(status)); });
    return promise.get_future().get();
  }
};

TEST(Adapters, AreChosenByTheirNameOrTheModelsAndTheirs) {
  AdaptedHouse house;
  ASSERT_TRUE(add_adapter(*house.engine, {.name = "tuned", .path = "a"}));
  house.cached("fake"), house.cached("tuned"), house.cached("fake:tuned");
  EXPECT_GT(house.model->rows_of[""], 100);
  EXPECT_GT(house.model->rows_of["a"], 100);
  int tokens = 0;
  for (const char* name : {"nobody", "fake:nobody", "tuned:fake", "fake:", ":tuned"})
    EXPECT_EQ(house.ask(name, tokens).value_or(Error{}).code, Code::not_found) << name;
  const auto cards = house.engine->models();
  ASSERT_EQ(cards.size(), 2u);
  EXPECT_EQ(cards[1].id, "tuned");
  EXPECT_EQ(cards[1].parent, "fake");
  EXPECT_EQ(cards[1].root, "a");
}

TEST(Adapters, ShareNoKeysAndValues) {
  AdaptedHouse house;
  ASSERT_TRUE(add_adapter(*house.engine, {.name = "one", .path = "a"}));
  ASSERT_TRUE(add_adapter(*house.engine, {.name = "two", .path = "a"}));
  EXPECT_EQ(house.cached("fake"), 0);
  EXPECT_EQ(house.cached("one"), 0);
  EXPECT_EQ(house.cached("two"), 0);
  EXPECT_EQ(house.cached("fake"), 96);
  EXPECT_EQ(house.cached("fake:one"), 96);
  ASSERT_TRUE(house.engine->unload_adapter("one"));
  ASSERT_TRUE(add_adapter(*house.engine, {.name = "one", .path = "b"}));
  EXPECT_EQ(house.cached("one"), 0) << "another adapter of the same name";
}

TEST(Adapters, ComeAndGoWhileRequestsRun) {
  AdaptedHouse house;
  ASSERT_TRUE(add_adapter(*house.engine, {.name = "tuned", .path = "a"}));
  fake::Gate gate;
  auto note = house.model->before_forward;
  house.model->before_forward = [&](const models::Step& step) { gate(), note(step); };
  fake::Sink sink;
  Request asked = request("hello", 8);
  asked.model = "tuned";
  auto ticket = *house.engine->start(std::move(asked), sink);
  gate.wait_for_arrival();
  EXPECT_TRUE(house.engine->unload_adapter("tuned"));
  EXPECT_TRUE(house.load(*house.engine, {.name = "other", .path = "b"}));
  gate.open();
  sink.wait();
  EXPECT_TRUE(sink.finished) << "who has begun keeps its adapter";
  int tokens = 0;
  EXPECT_TRUE(house.ask("tuned", tokens));
  EXPECT_EQ(house.model->rows_of[""], 0);
}

TEST(Adapters, AreRefusedInASentence) {
  AdaptedHouse house;
  EXPECT_THAT(house.load(*house.engine, {.name = "fake", .path = "a"}).error().message, HasSubstr("another name"));
  EXPECT_EQ(house.load(*house.engine, {.name = "x", .path = "missing"}).error().code, Code::not_found);
  EXPECT_EQ(house.load(*house.engine, {.path = "a"}).error().code, Code::invalid);
  ASSERT_TRUE(house.load(*house.engine, {.name = "x", .path = "a"}));
  EXPECT_THAT(house.load(*house.engine, {.name = "x", .path = "a"}).error().message, HasSubstr("loaded already"));
  EXPECT_TRUE(house.load(*house.engine, {.name = "x", .path = "b", .replace = true}));
  EXPECT_EQ(house.engine->unload_adapter("y").error().code, Code::not_found);
}

TEST(Adapters, OfSeveralModelsHaveOneNameEach) {
  AdaptedHouse first, second;
  auto other = std::shared_ptr<Engine>(
      Engine::create({.names = {"other"}, .model = second.model, .tokenizer = std::make_shared<fake::Tokenizer>()}, {})
          .value());
  const auto set =
      Residents::create({{.card = {.id = "fake"}, .load = [&] { return Resident{.generator = first.engine}; }},
                         {.card = {.id = "other"}, .load = [&] { return Resident{.generator = other}; }}},
                        {})
          .value();
  ASSERT_TRUE(set->preload("other"));
  EXPECT_TRUE(first.load(*set, {.model = "other", .name = "a", .path = "a"}));
  EXPECT_THAT(first.load(*set, {.name = "a", .path = "a"}).error().message, HasSubstr("served already"));
  EXPECT_THAT(first.load(*set, {.name = "other", .path = "a"}).error().message, HasSubstr("served already"));
  EXPECT_EQ(first.load(*set, {.model = "nobody", .name = "b", .path = "a"}).error().code, Code::not_found);
  EXPECT_TRUE(first.load(*set, {.name = "b", .path = "b"}));
  std::vector<std::string> ids;
  for (const ModelCard& card : set->models()) ids.push_back(card.parent + ":" + card.id);
  EXPECT_THAT(ids, testing::ElementsAre(":fake", "fake:b", ":other", "other:a"));
  for (const char* name : {"a", "other:a", "b", "fake:b"}) {
    fake::Sink sink;
    Request asked = request("hello", 2);
    asked.model = name;
    auto ticket = set->start(std::move(asked), sink);
    ASSERT_TRUE(ticket) << name;
    sink.wait();
    EXPECT_TRUE(sink.finished) << name;
  }
  EXPECT_TRUE(set->unload_adapter("a"));
  EXPECT_FALSE(set->unload_adapter("a"));
  EXPECT_FALSE(set->unload_adapter("fake"));
}

}  // namespace
}  // namespace ashlar::engine
