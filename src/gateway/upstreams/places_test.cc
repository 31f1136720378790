// Generators behind one face that are exchanged while requests run.
#include "gateway/upstreams/places.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gateway/upstreams/directory.h"
#include "gateway/upstreams/door.h"

namespace ashlar::gateway {
namespace {

// Lists `names`, counts how often it is asked for them, and holds its requests open.
class FakePlace final : public engine::Generator, public engine::CountedNames {
 public:
  explicit FakePlace(std::vector<std::string> names, bool counts = true) : names_(std::move(names)), counts_(counts) {}
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request request, engine::Sink&) override {
    asked.push_back(request.model);
    return std::make_unique<engine::Ticket>();
  }
  std::vector<engine::ModelCard> models() const override {
    ++listed;
    std::vector<engine::ModelCard> out;
    for (const std::string& name : names_) out.push_back({.id = name});
    return out;
  }
  std::optional<std::uint64_t> names_version() const override {
    return counts_ ? std::optional<std::uint64_t>(version_) : std::nullopt;
  }
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt&, bool) const override {
    return engine::Tokenized{};
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>&) const override { return ""; }
  Result<std::string> render(const std::string&, const engine::Chat&) const override { return ""; }
  Load load() const override { return {}; }

  void rename(std::vector<std::string> names) {
    names_ = std::move(names);
    ++version_;
  }
  std::vector<std::string> asked;
  mutable int listed = 0;

 private:
  std::vector<std::string> names_;
  const bool counts_;
  std::uint64_t version_ = 1;
};

std::unique_ptr<engine::Ticket> ask(engine::Generator& generator, const std::string& model) {
  class Deaf final : public engine::Sink {
    void on(engine::Event) override {}
  };
  static Deaf sink;
  auto ticket = generator.start({.id = "1", .model = model}, sink);
  return ticket ? std::move(*ticket) : nullptr;
}

TEST(Places, NamesAreAskedForOnceUntilTheyChange) {
  const auto one = std::make_shared<FakePlace>(std::vector<std::string>{"a"}),
             two = std::make_shared<FakePlace>(std::vector<std::string>{"a", "b"});
  Directory directory(
      {{.name = "one", .generator = one, .embedder = nullptr}, {.name = "two", .generator = two, .embedder = nullptr}});
  for (int i = 0; i < 100; ++i)
    for (const auto* name : {"a", "b", "two/a", "none"}) ask(directory, name);
  EXPECT_EQ(one->listed, 1);
  EXPECT_EQ(two->listed, 1);
  EXPECT_EQ(one->asked.size(), 100);
  EXPECT_EQ(two->asked.size(), 200);
  one->rename({"c"});
  EXPECT_NE(ask(directory, "c"), nullptr);
  EXPECT_NE(ask(directory, "a"), nullptr);
  EXPECT_EQ(two->asked.back(), "a");
  EXPECT_EQ(ask(directory, "one/a"), nullptr);
}

TEST(Places, WhoDoesNotCountIsAskedEachTime) {
  const auto one = std::make_shared<FakePlace>(std::vector<std::string>{"a"}, false);
  Directory directory({{.name = "one", .generator = one, .embedder = nullptr}});
  EXPECT_NE(ask(directory, "a"), nullptr);
  one->rename({"b"});
  EXPECT_EQ(ask(directory, "a"), nullptr);
  EXPECT_NE(ask(directory, "one/b"), nullptr);
}

TEST(Places, APlaceThatIsTakenAwayLivesUntilItsLastRequestEnds) {
  auto one = std::make_shared<FakePlace>(std::vector<std::string>{"a"});
  const std::weak_ptr<FakePlace> watched = one;
  Directory directory({{.name = "one", .generator = std::move(one), .embedder = nullptr}});
  auto ticket = ask(directory, "a");
  const auto version = directory.names_version();
  const auto two = std::make_shared<FakePlace>(std::vector<std::string>{"a"});
  directory.set(
      std::make_shared<const Places>(std::vector<Place>{{.name = "one", .generator = two, .embedder = nullptr}}));
  EXPECT_NE(directory.names_version(), version);
  EXPECT_FALSE(watched.expired());
  EXPECT_NE(ask(directory, "a"), nullptr);
  EXPECT_EQ(two->asked.size(), 1);
  ticket.reset();
  EXPECT_TRUE(watched.expired());
}

TEST(Places, PlacesChangeWhileRequestsComeFromEverywhere) {
  const auto places = [] {
    return std::make_shared<const Places>(std::vector<Place>{
        {.name = "one", .generator = std::make_shared<FakePlace>(std::vector<std::string>{"a"}), .embedder = nullptr}});
  };
  // One thread asks each place: a FakePlace has no locks.
  Directory directory(places());
  std::jthread changes([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) directory.set(places());
  });
  for (int i = 0; i < 2000; ++i) EXPECT_NE(ask(directory, "a"), nullptr);
}

TEST(Door, IsOneModelUnderTheNameThatItWasGiven) {
  const auto one = std::make_shared<FakePlace>(std::vector<std::string>{"a", "b"});
  const auto places =
      std::make_shared<const Places>(std::vector<Place>{{.name = "one", .generator = one, .embedder = nullptr}});
  Door door(places, "one/a");
  ASSERT_EQ(door.models().size(), 1);
  EXPECT_EQ(door.models().front().id, "one/a");
  EXPECT_NE(ask(door, "one/a"), nullptr);
  EXPECT_EQ(one->asked.back(), "a");
  EXPECT_EQ(door.behind(), one.get());
  EXPECT_EQ(Door(places, "two/a").behind(), nullptr);
  // Who was not told of other places asks where the model was; who was does not.
  one->rename({"b"});
  EXPECT_NE(ask(door, "one/a"), nullptr);
  door.set(std::make_shared<const Places>(std::vector<Place>{}));
  EXPECT_EQ(ask(door, "one/a"), nullptr);
}

}  // namespace
}  // namespace ashlar::gateway
