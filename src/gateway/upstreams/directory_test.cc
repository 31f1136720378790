#include "gateway/upstreams/directory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "gateway/upstreams/fakes_for_test.h"

namespace ashlar::gateway {
namespace {

// Upstreams that list what they serve without being asked.
std::shared_ptr<Upstream> serving(const FakeServer& server, const std::string& name,
                                  std::vector<UpstreamModel> models) {
  UpstreamOptions options = options_for(server);
  options.name = name;
  options.models = std::move(models);
  return std::move(*Upstream::create(std::move(options)));
}

TEST(Directory, ANameTellsWhoAnswersAndTheFirstHasIt) {
  std::string asked;
  FakeServer server([&](const FakeServer::Turn& turn, int) {
    asked = turn.json()["model"];
    turn.answer(400, "application/json", "{}");
  });
  const auto one = serving(server, "one", {{"a", "a1"}, {"b", "b1"}}),
             two = serving(server, "two", {{"a", "a2"}, {"c/d", "c2"}});
  Directory directory(
      {{.name = "one", .generator = one, .embedder = one}, {.name = "two", .generator = two, .embedder = nullptr}});
  std::vector<std::string> names;
  for (const auto& card : directory.models()) names.push_back(card.id);
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b", "two/a", "c/d"}));
  for (const auto& [name, theirs] :
       {std::pair("a", "a1"), {"two/a", "a2"}, {"one/a", "a1"}, {"c/d", "c2"}, {"two/c/d", "c2"}}) {
    HeardSink sink;
    auto request = chat_request();
    request.model = name;
    const auto ticket = directory.start(std::move(request), sink);
    ASSERT_TRUE(ticket) << name;
    sink.wait();
    EXPECT_EQ(asked, theirs) << name;
  }
  HeardSink sink;
  auto request = chat_request();
  request.model = "none";
  EXPECT_EQ(directory.start(std::move(request), sink).error().error.code, Code::not_found);
  EXPECT_EQ(directory.tokenize("a", {}, true).error().code, Code::unsupported);
  directory.embed({.model = "c/d"}, [](auto result) { EXPECT_EQ(result.error().error.code, Code::unsupported); });
  EXPECT_TRUE(directory.load().healthy);
}

TEST(Directory, MarkedDataGoesOnlyToPlacesThatListItsClasses) {
  std::atomic<int> asked = 0;
  FakeServer server([&](const FakeServer::Turn& turn, int) {
    ++asked;
    turn.answer(400, "application/json", "{}");
  });
  const auto here = serving(server, "here", {{"a", "a"}}), cloud = serving(server, "cloud", {{"b", "b"}}),
             trusted = serving(server, "trusted", {{"c", "c"}});
  const auto places = std::make_shared<const Places>(std::vector<Place>{
      {.name = {}, .generator = here, .embedder = here},
      {.name = "cloud", .generator = cloud, .embedder = cloud, .data_classes = std::vector<std::string>{}},
      {.name = "trusted", .generator = trusted, .embedder = trusted, .data_classes = {{"sensitive", "secret"}}}});
  Directory asked_for(places, Directory::Marked::where_listed), any(places);
  const auto goes = [&](Directory& to, const std::string& model, std::vector<std::string> classes) {
    const int before = asked;
    HeardSink sink;
    auto request = chat_request();
    request.model = model;
    request.sender.data_classes = classes;
    const auto ticket = to.start(std::move(request), sink);
    if (ticket) sink.wait();
    EXPECT_TRUE(ticket || ticket.error().error.code == Code::forbidden) << ticket.error().error.message;
    EXPECT_EQ(asked != before, ticket.has_value());
    std::promise<bool> embeds;
    to.embed({.model = model, .inputs = {"text"}, .sender = {.data_classes = std::move(classes)}},
             [&](auto vectors) { embeds.set_value(vectors || vectors.error().error.code != Code::forbidden); });
    EXPECT_EQ(embeds.get_future().get(), ticket.has_value());
    return ticket.has_value();
  };
  for (const char* model : {"a", "b", "cloud/b", "c"}) {
    EXPECT_TRUE(goes(asked_for, model, {})) << model;
    EXPECT_TRUE(goes(any, model, {"sensitive"})) << model << ": whoever asks so has looked";
  }
  EXPECT_TRUE(goes(asked_for, "a", {"sensitive", "medical"}));
  EXPECT_FALSE(goes(asked_for, "b", {"sensitive"}));
  EXPECT_FALSE(goes(asked_for, "cloud/b", {"sensitive"}));
  EXPECT_TRUE(goes(asked_for, "c", {"sensitive"}));
  EXPECT_TRUE(goes(asked_for, "trusted/c", {"secret", "sensitive"}));
  EXPECT_FALSE(goes(asked_for, "c", {"sensitive", "medical"}));
}

// As behind routes: what they do not know is asked of the models.
TEST(Directory, NamesThatNobodyListsAreKnownBehindAnotherPlaceToo) {
  FakeServer server([](const FakeServer::Turn& turn, int) { turn.answer(400, "application/json", "{}"); });
  const auto routes = serving(server, "r", {{"route", "x"}}), one = serving(server, "one", {{"a", "a1"}}),
             two = serving(server, "two", {{"a", "a2"}});
  Directory models(
      {{.name = "one", .generator = one, .embedder = one}, {.name = "two", .generator = two, .embedder = two}});
  const Directory front({{.name = {}, .generator = routes, .embedder = nullptr},
                         {.name = {}, .generator = borrowed<engine::Generator>(&models), .embedder = nullptr}});
  for (const char* name : {"route", "a", "one/a", "two/a"}) {
    const auto card = front.card(name);
    ASSERT_TRUE(card) << name;
    EXPECT_EQ(card->id, name);
    EXPECT_EQ(card->alias_of, std::string_view(name) == "one/a" ? "a" : "") << "it is no way around a limit of 'a'";
  }
  EXPECT_FALSE(front.card("one/b"));
  EXPECT_FALSE(front.card("three/a"));
}

}  // namespace
}  // namespace ashlar::gateway
