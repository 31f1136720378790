#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "api/fakes_for_test.h"

namespace ashlar::api {
namespace {

using testing::HasSubstr;

TEST(Completions, AnswersAsOpenAiDoes) {
  World world;
  const Json json = world.complete(R"({"model":"tiny","prompt":"Say"})")->json();
  EXPECT_THAT(json["id"].get<std::string>(), testing::StartsWith("cmpl-"));
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_EQ(json["choices"].dump(),
            R"([{"index":0,"text":"Hello","logprobs":null,"finish_reason":"stop","stop_reason":null}])");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(json["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
  EXPECT_EQ(world.generator.seen().at(0).stopping.max_tokens, 16);
}

TEST(Completions, TakesPromptsOfEveryKindAndNumbersTheAnswers) {
  World world;
  EXPECT_EQ(world.complete(R"({"prompt":[65,66]})")->json()["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(world.complete(R"({"prompt":["a","bc"]})")->json()["usage"]["prompt_tokens"], 3);
  const Json json = world.complete(R"({"prompt":[[65],[66,67]],"n":2,"echo":true})")->json();
  ASSERT_EQ(json["choices"].size(), 4u);
  const char* texts[] = {"AHello", "AHello", "BCHello", "BCHello"};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["text"], texts[i]);
  }
  EXPECT_EQ(json["usage"]["completion_tokens"], 20);
}

TEST(Completions, WhatAFilterFoundOfEachPromptIsTold) {
  World world;
  world.generator.script = [](const engine::Request&) -> std::vector<engine::Event> {
    const auto json = [](const char* text) { return std::make_shared<const Json>(Json::parse(text)); };
    return {engine::Started{.prompt_tokens = 1},
            engine::Members{.json = json(R"({"prompt_filter_results":[{"prompt_index":0}]})"),
                            .of = engine::Members::Of::answer},
            engine::Text{.text = "ok"},
            engine::Members{.json = json(R"({"content_filter_results":{"hate":{"filtered":false}}})"),
                            .of = engine::Members::Of::choice},
            engine::ChoiceEnd{},
            engine::Finished{}};
  };
  const Json whole = world.complete(R"({"prompt":["a","b"]})")->json();
  std::set<int> prompts;
  for (const Json& each : whole["prompt_filter_results"]) prompts.insert(each["prompt_index"].get<int>());
  EXPECT_EQ(prompts, (std::set{0, 1}));
  for (const Json& choice : whole["choices"]) EXPECT_TRUE(choice["content_filter_results"].contains("hate"));
  const auto events = world.complete(R"({"prompt":"a","stream":true})")->events();
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(Json::parse(events[0])["prompt_filter_results"][0]["prompt_index"], 0);
  EXPECT_TRUE(Json::parse(events[2])["choices"][0]["content_filter_results"].contains("hate"));
}

TEST(Completions, StreamsManyPromptsOverOneConnection) {
  World world;
  std::map<int, std::string> texts;
  std::map<int, std::string> ends;
  const auto events =
      world.complete(R"({"prompt":["a","b"],"n":2,"stream":true,"echo":true,"stream_options":{"include_usage":true}})")
          ->events();
  for (const auto& event : events) {
    if (event == "[DONE]") break;
    const Json chunk = Json::parse(event);
    if (chunk["choices"].empty()) {
      EXPECT_EQ(chunk["usage"]["total_tokens"], 22);
      continue;
    }
    EXPECT_TRUE(chunk.at("usage").is_null());
    const Json& choice = chunk["choices"][0];
    texts[choice["index"]] += choice["text"].get<std::string>();
    if (choice["finish_reason"].is_string()) ends[choice["index"]] = choice["finish_reason"];
  }
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(texts, (std::map<int, std::string>{{0, "aHello"}, {1, "aHello"}, {2, "bHello"}, {3, "bHello"}}));
  EXPECT_EQ(ends.size(), 4u);
}

// What an evaluation harness sends to score a continuation.
TEST(Completions, EchoesThePromptsLogprobsExactly) {
  World world;
  const auto lists = world.complete(R"({"prompt":[65,66,67],"echo":true,"logprobs":1,"max_tokens":1,"temperature":0})")
                         ->json()["choices"][0]["logprobs"];
  ASSERT_EQ(lists["tokens"].size(), 8u);
  EXPECT_EQ(lists["tokens"].dump(), R"(["A","B","C","H","e","l","l","o"])");
  EXPECT_EQ(lists["token_logprobs"].dump(), "[null,-0.5,-0.5,-0.5,-0.5,-0.5,-0.5,-0.5]");
  EXPECT_EQ(lists["text_offset"].dump(), "[0,1,2,3,4,5,6,7]");
  EXPECT_EQ(lists["top_logprobs"].size(), 8u);
  EXPECT_TRUE(lists["top_logprobs"][0].is_null());
  EXPECT_EQ(lists["top_logprobs"][1].dump(), R"({"B":-0.5})");
  EXPECT_EQ(world.generator.seen().at(0).prompt_logprobs, 1);
}

TEST(Completions, MaxTokensZeroGivesThePromptAlone) {
  World world;
  const Json json = world.complete(R"({"prompt":"ABC","echo":true,"logprobs":2,"max_tokens":0})")->json();
  const Json& choice = json["choices"][0];
  EXPECT_EQ(choice["text"], "ABC");
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["logprobs"]["tokens"].size(), 3u);
  EXPECT_EQ(json["usage"]["completion_tokens"], 0);
  EXPECT_EQ(world.complete(R"({"prompt":"ABC","max_tokens":0})")->status(), 400);
}

TEST(Completions, OffsetsCountCharactersOverSplitOnes) {
  World world;
  world.generator.script = [](const engine::Request&) {
    engine::Text text{.text = "€!", .ids = {1, 2, 3}};
    for (const char* bytes : {"\xe2\x82", "\xac", "!"}) text.logprobs.push_back({.bytes = bytes});
    return std::vector<engine::Event>{engine::Started{}, text, engine::ChoiceEnd{}, engine::Finished{}};
  };
  const auto lists = world.complete(R"({"prompt":"x","logprobs":0})")->json()["choices"][0]["logprobs"];
  EXPECT_EQ(lists["tokens"].dump(), R"(["bytes:\\xe2\\x82","bytes:\\xac","!"])");
  EXPECT_EQ(lists["text_offset"].dump(), "[0,1,1]");
  EXPECT_EQ(lists["top_logprobs"][2].dump(), R"({"!":0})");
}

TEST(Completions, StreamsEchoAndLogprobs) {
  World world;
  const auto events =
      world.complete(R"({"prompt":"AB","echo":true,"logprobs":1,"stream":true,"return_token_ids":true})")->events();
  const Json first = Json::parse(events[0])["choices"][0];
  EXPECT_EQ(first["text"], "AB");
  EXPECT_EQ(first["logprobs"]["token_logprobs"].dump(), "[null,-0.5]");
  EXPECT_EQ(first["prompt_token_ids"].dump(), "[65,66]");
  const Json second = Json::parse(events[1])["choices"][0];
  EXPECT_EQ(second["logprobs"]["text_offset"].dump(), "[2,3,4]");
  EXPECT_EQ(second["token_ids"].dump(), "[72,101,108]");
}

TEST(Completions, RefusesWrongPrompts) {
  World world;
  for (const char* body :
       {R"({})", R"({"prompt":null})", R"({"prompt":7})", R"({"prompt":{}})", R"({"prompt":[]})", R"({"prompt":[[]]})",
        R"({"prompt":["a",1]})", R"({"prompt":[1,"a"]})", R"({"prompt":[-1]})", R"({"prompt":[256]})",
        R"({"prompt":[1.5]})", R"({"prompt":[["a"]]})", R"({"prompt":["a",["b"]]})", R"({"prompt":[true]})"}) {
    SCOPED_TRACE(body);
    const auto answer = world.complete(body);
    EXPECT_EQ(answer->status(), 400);
    EXPECT_EQ(answer->json()["error"]["param"], "prompt");
  }
  std::string many = R"({"n":100,"prompt":["a")";
  for (int i = 0; i < 100; ++i) many += R"(,"a")";
  EXPECT_THAT(world.complete(many + "]}")->body(), HasSubstr("too many answers"));
}

TEST(Completions, RefusesWhatItDoesNotServe) {
  World world;
  EXPECT_THAT(world.complete(R"({"prompt":"a","suffix":"b"})")->body(), HasSubstr("'suffix' is not supported yet"));
  EXPECT_THAT(world.complete(R"({"prompt":"a","best_of":2})")->body(), HasSubstr("'best_of'"));
  EXPECT_EQ(world.complete(R"({"prompt":"a","logprobs":21})")->json()["error"]["param"], "logprobs");
  EXPECT_EQ(world.complete(R"({"prompt":"a","logprobs":true})")->json()["error"]["param"], "logprobs");
  EXPECT_EQ(world.complete(R"({"prompt":"a","suffix":"","best_of":1})")->status(), 200);
}

// One of many prompts that cannot be started takes the others down with it.
TEST(Completions, AnswersOnceWhenOneOfManyPromptsIsTooLong) {
  World world;
  world.generator.context = 5;
  world.generator.hold = true;
  const auto answer = world.complete(R"({"prompt":["ab","abcdefgh"]})");
  EXPECT_EQ(answer->status(), 400);
  EXPECT_EQ(answer->json()["error"]["code"], "context_length_exceeded");
  world.generator.wait_idle();
}

}  // namespace
}  // namespace ashlar::api
