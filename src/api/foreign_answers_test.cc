// What another server answers, as our clients get it.
#include <gtest/gtest.h>

#include "api/fakes_for_test.h"

namespace ashlar::api {
namespace {

// What another server may answer: thoughts, calls, further members.
std::vector<engine::Event> rich_answer(const engine::Request&) {
  const auto members = [](const char* json) { return std::make_shared<const Json>(Json::parse(json)); };
  return {engine::Started{.prompt_tokens = 3},
          engine::Reasoning{.text = "Hm, "},
          engine::Reasoning{.text = "so."},
          engine::ToolCall{.index = 0, .id = "a", .name = "f", .arguments = ""},
          engine::ToolCall{.index = 0, .arguments = "{\"x\":"},
          engine::ToolCall{.index = 0, .arguments = "1}"},
          engine::ToolCall{.index = 1, .id = "b", .name = "g", .arguments = "{}"},
          engine::Members{.json = members(R"({"refusal":"I ","annotations":[1]})")},
          engine::Members{.json = members(R"({"refusal":"won't","annotations":[2],"audio":{"id":"s","data":"AB"}})")},
          engine::Members{.json = members(R"({"audio":{"id":"s","data":"CD","transcript":"hi"}})")},
          engine::ChoiceEnd{.reason = engine::FinishReason::tool_calls},
          engine::Finished{.usage = {.prompt_tokens = 3, .completion_tokens = 9, .estimated = true}}};
}

TEST(Chat, ThoughtsCallsAndMembersAreWrittenWhole) {
  World world;
  world.generator.script = rich_answer;
  const Json answer = world.chat(kHi)->json();
  EXPECT_EQ(answer["choices"][0]["message"],
            Json::parse(R"({"role":"assistant","content":null,"reasoning_content":"Hm, so.","reasoning":"Hm, so.",
              "tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},
                {"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}],
              "refusal":"I won't","annotations":[1,2],"audio":{"id":"s","data":"ABCD","transcript":"hi"}})"));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "tool_calls");
  EXPECT_EQ(answer["usage"]["estimated"], true);
}

// As Azure's filter says it, in pieces.
std::vector<engine::Event> filtered_answer(const engine::Request&) {
  const auto json = [](const char* text) { return std::make_shared<const Json>(Json::parse(text)); };
  using Of = engine::Members::Of;
  return {
      engine::Started{.prompt_tokens = 3, .written_tokens = 2},
      engine::Members{.json = json(R"({"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{}}]})"),
                      .of = Of::answer},
      engine::Text{.text = "ok"},
      engine::Members{.json = json(R"({"content_filter_results":{"hate":{"filtered":false,"severity":"medium"}}})"),
                      .of = Of::choice},
      engine::ChoiceEnd{},
      engine::Members{
          .json = json(
              R"({"content_filter_results":{"hate":{"filtered":true,"severity":"low"},"violence":{"severity":"safe"}}})"),
          .of = Of::choice},
      engine::Finished{.usage = {.prompt_tokens = 3, .completion_tokens = 1, .written_tokens = 2}}};
}

TEST(Chat, WhatAFilterFoundIsToldWholeTheStricterOfTwo) {
  World world;
  world.generator.script = filtered_answer;
  const Json answer = world.chat(kHi)->json();
  EXPECT_EQ(answer["prompt_filter_results"], Json::parse(R"([{"prompt_index":0,"content_filter_results":{}}])"));
  EXPECT_EQ(answer["choices"][0]["content_filter_results"],
            Json::parse(R"({"hate":{"filtered":true,"severity":"medium"},"violence":{"severity":"safe"}})"));
  EXPECT_EQ(answer["choices"][0]["message"]["content"], "ok");
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cache_write_tokens"], 2);
}

TEST(Chat, WhatAFilterFoundIsStreamedAsItComes) {
  World world;
  world.generator.script = filtered_answer;
  const auto events = world.chat(hi(R"("stream":true)"))->events();
  ASSERT_EQ(events.size(), 7u);
  const Json prompt = Json::parse(events[1]), second = Json::parse(events[3]), last = Json::parse(events[5]);
  EXPECT_EQ(prompt["choices"], Json::array());
  EXPECT_EQ(prompt["prompt_filter_results"][0]["prompt_index"], 0);
  EXPECT_EQ(second["choices"][0]["delta"], Json::object());
  EXPECT_EQ(second["choices"][0]["content_filter_results"]["hate"]["severity"], "medium");
  EXPECT_EQ(last["choices"][0]["content_filter_results"]["hate"]["filtered"], true);
}

TEST(Chat, CallsOfCustomToolsHaveAnInput) {
  World world;
  world.generator.script = [](const engine::Request&) -> std::vector<engine::Event> {
    return {engine::Started{.prompt_tokens = 3},
            engine::ToolCall{.id = "a", .name = "run", .arguments = "ls ", .custom = true},
            engine::ToolCall{.arguments = "-l", .custom = true},
            engine::ChoiceEnd{.reason = engine::FinishReason::function_call}, engine::Finished{}};
  };
  const Json choice = world.chat(kHi)->json()["choices"][0];
  EXPECT_EQ(choice["message"]["tool_calls"],
            Json::parse(R"([{"id":"a","type":"custom","custom":{"name":"run","input":"ls -l"}}])"));
  EXPECT_EQ(choice["finish_reason"], "function_call");
  const auto events = world.chat(hi(R"("stream":true)"))->events();
  EXPECT_EQ(Json::parse(events.at(2))["choices"][0]["delta"]["tool_calls"],
            Json::parse(R"([{"index":0,"custom":{"input":"-l"}}])"));
}

TEST(Chat, ThoughtsCallsAndMembersAreStreamed) {
  World world;
  world.generator.script = rich_answer;
  const auto events = world.chat(hi(R"("stream":true)"))->events();
  ASSERT_EQ(events.size(), 12u);
  const auto delta = [&](std::size_t i) { return Json::parse(events[i])["choices"][0]["delta"]; };
  EXPECT_EQ(delta(1), Json::parse(R"({"reasoning_content":"Hm, ","reasoning":"Hm, "})"));
  EXPECT_EQ(
      delta(3),
      Json::parse(R"({"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]})"));
  EXPECT_EQ(delta(4), Json::parse(R"({"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}}]})"));
  EXPECT_EQ(delta(7), Json::parse(R"({"refusal":"I ","annotations":[1]})"));
}

TEST(Chat, AForeignModelGetsTheRequestAsItWasSent) {
  World world;
  world.generator.foreign = true;
  const std::string body =
      R"({"model":"tiny","messages":[{"role":"developer","content":[{"type":"image_url","image_url":{"url":"x"}}]},
    {"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]}],
    "tool_choice":"required","response_format":{"type":"json_object"},"guided_json":{},"logit_bias":{"99999":1},"mine":[1],"max_tokens":7})";
  const auto given = world.chat(body);
  ASSERT_EQ(given->status(), 200) << given->body();
  const auto request = world.generator.seen().at(0);
  ASSERT_NE(request.body, nullptr);
  EXPECT_EQ(*request.body, Json::parse(body));
  EXPECT_EQ(*std::get<engine::Chat>(request.prompt.input).messages, Json::parse(body)["messages"]);
  EXPECT_EQ(request.stopping.max_tokens, 7);
  EXPECT_EQ(world.ask("GET", "/v1/models")->json()["data"][0]["owned_by"], "up");
}

TEST(Chat, AnUpstreamsFailureKeepsItsStatusAndReason) {
  World world;
  world.generator.script = [](const engine::Request&) {
    return std::vector<engine::Event>{
        engine::Failed{.error = {Code::unavailable, "it is gone"}, .status = 502, .reason = "upstream_error"}};
  };
  auto answer = world.chat(kHi);
  EXPECT_EQ(answer->status(), 502);
  EXPECT_EQ(answer->json()["error"]["code"], "upstream_error");
  world.generator.script = [](const engine::Request&) {
    return std::vector<engine::Event>{engine::Failed{.error = {Code::invalid, "too long"}, .over_context = true}};
  };
  answer = world.chat(kHi);
  EXPECT_EQ(answer->status(), 400);
  EXPECT_EQ(answer->json()["error"]["code"], "context_length_exceeded");
  EXPECT_EQ(answer->json()["error"]["param"], "messages");
}

TEST(Chat, TheMemberThatAnUpstreamNamesIsTold) {
  World world;
  world.generator.script = [](const engine::Request&) {
    return std::vector<engine::Event>{engine::Failed{.error = {Code::invalid, "not so"}, .param = "logit_bias"}};
  };
  const auto whole = world.chat(kHi);
  EXPECT_EQ(whole->status(), 400);
  EXPECT_EQ(whole->json()["error"]["param"], "logit_bias");
  world.generator.script = [](const engine::Request&) {
    return std::vector<engine::Event>{engine::Started{}, engine::Text{.text = "a", .ids = {1}},
                                      engine::Failed{.error = {Code::invalid, "not so"}, .param = "stop"}};
  };
  const auto events = world.chat(hi(R"("stream":true)"))->events();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(Json::parse(events[2])["error"]["param"], "stop");
}

}  // namespace
}  // namespace ashlar::api
