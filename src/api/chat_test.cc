#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/fakes_for_test.h"

namespace ashlar::api {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// kHi with other messages.
std::string saying(const std::string& messages) { return R"({"messages":)" + messages + "}"; }

void expect_fault(const std::shared_ptr<RecordingExchange>& answer, int status, const std::string& param,
                  const std::string& words) {
  EXPECT_EQ(answer->status(), status) << answer->body();
  const Json error = answer->json()["error"];
  EXPECT_EQ(error["param"], param.empty() ? Json() : Json(param)) << answer->body();
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(words));
  EXPECT_TRUE(error.contains("code") && error["type"].is_string());
}

TEST(Chat, AnswersAsOpenAiDoes) {
  World world;
  const auto answer = world.chat(kHi);
  EXPECT_EQ(answer->status(), 200);
  EXPECT_EQ(answer->header("content-type"), "application/json");
  const Json json = answer->json();
  EXPECT_THAT(json["id"].get<std::string>(), testing::StartsWith("chatcmpl-"));
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["model"], "tiny");
  EXPECT_EQ(
      json["choices"].dump(),
      R"([{"index":0,"message":{"role":"assistant","content":"Hello","refusal":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}])");
  const Json& usage = json["usage"];
  EXPECT_EQ(usage["prompt_tokens"], 10);
  EXPECT_EQ(usage["completion_tokens"], 5);
  EXPECT_EQ(usage["total_tokens"], 15);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 1);
  EXPECT_EQ(usage["completion_tokens_details"]["reasoning_tokens"], 0);
}

TEST(Chat, ACompressedBodyIsRefusedAsWhatItIs) {
  World world;
  const auto zipped = world.chat("\x1f\x8b\x08 something", {{"content-encoding", "gzip"}});
  expect_fault(zipped, 415, "", "content-encoding 'gzip'");
  EXPECT_EQ(zipped->json()["error"]["code"], "unsupported_content_encoding");
  EXPECT_EQ(world.chat(kHi, {{"content-encoding", "identity"}})->status(), 200);
  EXPECT_EQ(world.chat("{", {{"content-encoding", "identity"}})->status(), 400);
}

TEST(Chat, StreamsRoleThenTextThenEndThenDone) {
  World world;
  const auto answer = world.chat(hi(R"("stream":true)"));
  EXPECT_EQ(answer->header("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(answer->header("cache-control"), "no-cache");
  EXPECT_EQ(answer->header("x-accel-buffering"), "no");
  const auto events = answer->events();
  ASSERT_EQ(events.size(), 5u);
  std::vector<std::string> choices;
  for (int i = 0; i < 4; ++i) {
    const Json chunk = Json::parse(events[i]);
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    EXPECT_EQ(chunk["id"], Json::parse(events[0])["id"]);
    EXPECT_FALSE(chunk.contains("usage"));
    choices.push_back(chunk["choices"].dump());
  }
  EXPECT_THAT(
      choices,
      ElementsAre(R"([{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}])",
                  R"([{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}])",
                  R"([{"index":0,"delta":{"content":"lo"},"logprobs":null,"finish_reason":null}])",
                  R"([{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":null}])"));
  EXPECT_EQ(events[4], "[DONE]");
}

TEST(Chat, UsageComesInOneMoreChunkAndIsNullInTheOthers) {
  World world;
  const auto events = world.chat(hi(R"("stream":true,"stream_options":{"include_usage":true})"))->events();
  ASSERT_EQ(events.size(), 6u);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Json::parse(events[i]).at("usage").is_null());
  const Json last = Json::parse(events[4]);
  EXPECT_EQ(last["choices"], Json::array());
  EXPECT_EQ(last["usage"]["total_tokens"], 15);
}

TEST(Chat, ContinuousUsageCountsUp) {
  World world;
  const auto events =
      world.chat(hi(R"("stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true})"))
          ->events();
  std::vector<int> completion;
  for (std::size_t i = 0; i + 1 < events.size(); ++i)
    completion.push_back(Json::parse(events[i])["usage"]["completion_tokens"]);
  EXPECT_THAT(completion, ElementsAre(0, 3, 5, 5, 5));
}

TEST(Chat, GivesEveryChoiceAsked) {
  World world;
  EXPECT_EQ(world.chat(hi(R"("n":3)"))->json()["choices"].size(), 3u);
  std::map<int, std::string> texts;
  for (const auto& event : world.chat(hi(R"("n":3,"stream":true)"))->events()) {
    if (event == "[DONE]") break;
    const Json choice = Json::parse(event)["choices"][0];
    texts[choice["index"]] += choice["delta"].value("content", "");
  }
  EXPECT_EQ(texts, (std::map<int, std::string>{{0, "Hello"}, {1, "Hello"}, {2, "Hello"}}));
}

TEST(Chat, GivesLogprobsWithBytesAndAlternatives) {
  World world;
  const Json choice = world.chat(hi(R"("logprobs":true,"top_logprobs":2)"))->json()["choices"][0];
  const Json& content = choice["logprobs"]["content"];
  ASSERT_EQ(content.size(), 5u);
  EXPECT_EQ(
      content[0].dump(),
      R"({"token":"H","logprob":-0.5,"bytes":[72],"top_logprobs":[{"token":"H","logprob":-0.5,"bytes":[72]},{"token":"I","logprob":-1.5,"bytes":[73]}]})");
  const Json named = world.chat(hi(R"("logprobs":true,"return_tokens_as_token_ids":true)"))
                         ->json()["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(named[0]["token"], "token_id:72");
  EXPECT_EQ(named[0]["top_logprobs"], Json::array());
}

TEST(Chat, StreamsLogprobsWithTheirText) {
  World world;
  const auto events = world.chat(hi(R"("stream":true,"logprobs":true)"))->events();
  EXPECT_EQ(Json::parse(events[1])["choices"][0]["logprobs"]["content"].size(), 3u);
  EXPECT_EQ(Json::parse(events[2])["choices"][0]["logprobs"]["content"].size(), 2u);
}

TEST(Chat, WritesPartialCharactersAsBytes) {
  World world;
  world.generator.script = [](const engine::Request&) {
    engine::Text text{.ids = {1},
                      .logprobs = {{.id = 1, .logprob = -std::numeric_limits<float>::infinity(), .bytes = "\xe2\x82"}}};
    return std::vector<engine::Event>{engine::Started{}, text, engine::ChoiceEnd{}, engine::Finished{}};
  };
  const Json token = world.chat(hi(R"("logprobs":true)"))->json()["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(token["token"], "bytes:\\xe2\\x82");
  EXPECT_EQ(token["bytes"], Json({0xe2, 0x82}));
  EXPECT_EQ(token["logprob"], -9999.0);
}

TEST(Chat, NamesWhatStoppedIt) {
  World world;
  world.generator.script = [](const engine::Request&) {
    return std::vector<engine::Event>{engine::Started{}, engine::ChoiceEnd{.stop_string = "END"}, engine::Finished{}};
  };
  EXPECT_EQ(world.chat(kHi)->json()["choices"][0]["stop_reason"], "END");
  world.generator.script = [](const engine::Request&) {
    return std::vector<engine::Event>{engine::Started{},
                                      engine::ChoiceEnd{.reason = engine::FinishReason::length, .stop_token = 7},
                                      engine::Finished{}};
  };
  EXPECT_EQ(world.chat(kHi)->json()["choices"][0]["stop_reason"], 7);
  EXPECT_EQ(world.chat(kHi)->json()["choices"][0]["finish_reason"], "length");
}

TEST(Chat, ReturnsTokenIdsAndPromptLogprobsIfAsked) {
  World world;
  const Json json = world.chat(hi(R"("return_token_ids":true,"prompt_logprobs":1)"))->json();
  EXPECT_EQ(json["prompt_token_ids"].size(), 10u);
  EXPECT_EQ(json["choices"][0]["token_ids"], Json({'H', 'e', 'l', 'l', 'o'}));
  EXPECT_EQ(json["prompt_logprobs"].size(), 10u);
  EXPECT_TRUE(json["prompt_logprobs"][0].is_null());
  EXPECT_EQ(json["prompt_logprobs"][1].dump(), R"({"120":{"logprob":-0.5,"rank":1,"decoded_token":"x"}})");
}

TEST(Chat, HandsEveryParameterToTheGenerator) {
  World world;
  world.chat(hi(R"("temperature":0.5,"top_k":40,"top_p":0.9,"min_p":0.1,"typical_p":0.8,"repetition_penalty":1.1,
    "presence_penalty":-1,"frequency_penalty":2,"logit_bias":{"7":-100},"allowed_token_ids":[1,2],"seed":-1,
    "max_tokens":9,"max_completion_tokens":8,"min_tokens":2,"stop":["a","b"],"stop_token_ids":[3],"ignore_eos":true,
    "include_stop_str_in_output":true,"n":2,"skip_special_tokens":false,"priority":-3,"cache_salt":"s","keep_alive":"1h30m",
    "speculation":"ngram","speculative_tokens":4,"prediction":{"type":"content","content":[{"type":"text","text":"He"},{"type":"text","text":"llo"}]},
    "logprobs":true,"top_logprobs":20,"add_special_tokens":true,"chat_template":"{{x}}","chat_template_kwargs":{"enable_thinking":false},
    "reasoning_effort":"low","tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto","unknown_field":{"deep":[1]})"));
  const auto request = world.generator.seen().at(0);
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_EQ(request.sampling.top_k, 40);
  EXPECT_FLOAT_EQ(request.sampling.top_p, 0.9f);
  EXPECT_FLOAT_EQ(request.sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ(request.sampling.typical_p, 0.8f);
  EXPECT_FLOAT_EQ(request.sampling.repetition_penalty, 1.1f);
  EXPECT_FLOAT_EQ(request.sampling.presence_penalty, -1);
  EXPECT_FLOAT_EQ(request.sampling.frequency_penalty, 2);
  EXPECT_THAT(request.sampling.logit_bias, ElementsAre(std::pair(7, -100.0f)));
  EXPECT_THAT(request.sampling.allowed_token_ids, ElementsAre(1, 2));
  EXPECT_EQ(request.sampling.seed, static_cast<std::uint64_t>(-1));
  EXPECT_EQ(request.stopping.max_tokens, 8);
  EXPECT_EQ(request.stopping.min_tokens, 2);
  EXPECT_THAT(request.stopping.stop, ElementsAre("a", "b"));
  EXPECT_THAT(request.stopping.stop_token_ids, ElementsAre(3));
  EXPECT_TRUE(request.stopping.ignore_eos);
  EXPECT_TRUE(request.stopping.include_stop_in_output);
  EXPECT_EQ(request.n, 2);
  EXPECT_FALSE(request.skip_special_tokens);
  EXPECT_EQ(request.priority, -3);
  EXPECT_EQ(request.cache_salt, "s");
  EXPECT_EQ(request.keep_alive, std::chrono::minutes(90));
  EXPECT_EQ(request.speculating.by, engine::Speculation::ngram);
  EXPECT_EQ(request.speculating.most, 4);
  EXPECT_EQ(request.speculating.prediction, "Hello");
  EXPECT_EQ(request.logprobs, 20);
  const auto& chat = std::get<engine::Chat>(request.prompt.input);
  EXPECT_TRUE(chat.add_special_tokens);
  EXPECT_EQ(chat.chat_template, "{{x}}");
  EXPECT_EQ(chat.template_kwargs->dump(), R"({"enable_thinking":false,"reasoning_effort":"low"})");
  EXPECT_EQ(chat.tools->size(), 1u);
}

TEST(Chat, TheLeastTopPIsTheLikeliestTokenAlone) {
  World world;
  world.chat(hi(R"("top_p":0,"top_k":40)"));
  const auto sampling = world.generator.seen().at(0).sampling;
  EXPECT_EQ(sampling.top_p, 1);
  EXPECT_EQ(sampling.top_k, 1);
}

TEST(Chat, SpeculationMayBeSwitchedOffAndIsCounted) {
  World world;
  world.chat(hi(R"("speculation":false,"prediction":{"type":"content","content":"x"})"));
  world.chat(hi(R"("speculation":null)"));
  EXPECT_EQ(world.generator.seen().at(0).speculating.by, engine::Speculation::off);
  EXPECT_EQ(world.generator.seen().at(0).speculating.prediction, "x");
  EXPECT_FALSE(world.generator.seen().at(1).speculating.by);
  world.generator.script = [](const engine::Request& request) {
    auto events = FakeGenerator::hello(request);
    std::get<engine::Finished>(events.back()).usage.accepted_tokens = 3;
    std::get<engine::Finished>(events.back()).usage.rejected_tokens = 2;
    return events;
  };
  const Json json = world.chat(hi(R"("n":1)"))->json();
  EXPECT_EQ(json["usage"]["completion_tokens_details"]["accepted_prediction_tokens"], 3);
  EXPECT_EQ(json["usage"]["completion_tokens_details"]["rejected_prediction_tokens"], 2);
}

TEST(Chat, KeepAliveIsSecondsOrATimeAsText) {
  World world;
  const std::pair<const char*, engine::KeepAlive> cases[] = {{R"("n":1)", {}},
                                                             {R"("keep_alive":null)", {}},
                                                             {R"("keep_alive":0)", std::chrono::milliseconds(0)},
                                                             {R"("keep_alive":2.5)", std::chrono::milliseconds(2500)},
                                                             {R"("keep_alive":-7)", std::chrono::milliseconds(-1)},
                                                             {R"("keep_alive":"-1")", std::chrono::milliseconds(-1)},
                                                             {R"("keep_alive":"5m")", std::chrono::minutes(5)},
                                                             {R"("keep_alive":1e300)", std::chrono::days(3650)}};
  for (const auto& [members, expected] : cases) {
    world.chat(hi(members));
    EXPECT_EQ(world.generator.seen().back().keep_alive, expected) << members;
  }
}

TEST(Chat, NullCountsAsAbsent) {
  World world;
  EXPECT_EQ(
      world
          .chat(hi(R"("model":null,"temperature":null,"stop":null,"n":null,"seed":null,"logit_bias":null,"stream":null,
    "stream_options":null,"tools":null,"tool_choice":null,"response_format":null,"max_tokens":null)"))
          ->status(),
      200);
  EXPECT_FALSE(world.generator.seen().at(0).sampling.seed.has_value());
  EXPECT_EQ(world.generator.seen().at(0).stopping.max_tokens, -1);
}

TEST(Chat, MendsMessagesForTemplates) {
  World world;
  EXPECT_EQ(world
                .chat(saying(R"([{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
    {"role":"user","content":"q"},
    {"role":"assistant","content":null,"reasoning":"why","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]},
    {"role":"tool","tool_call_id":"1","content":"r"}, {"role":"assistant"}])"))
                ->status(),
            200);
  const auto request = world.generator.seen().at(0);
  const Json& messages = *std::get<engine::Chat>(request.prompt.input).messages;
  EXPECT_EQ(messages[0].dump(), R"({"role":"system","content":"a\nb"})");
  EXPECT_TRUE(messages[2]["content"].is_null());
  EXPECT_EQ(messages[2]["reasoning_content"], "why");
  EXPECT_EQ(messages[2]["tool_calls"][0]["function"]["arguments"].dump(), R"({"x":1})");
  EXPECT_EQ(messages[4]["content"], "");
}

TEST(Chat, ContinuesTheLastMessageAndEchoesItIfAsked) {
  World world;
  const auto answer = world.chat(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"Well, "}],
    "continue_final_message":true,"echo":true})");
  EXPECT_EQ(answer->json()["choices"][0]["message"]["content"], "Well, Hello");
  const auto request = world.generator.seen().at(0);
  EXPECT_FALSE(std::get<engine::Chat>(request.prompt.input).add_generation_prompt);
  expect_fault(world.chat(hi(R"("continue_final_message":true)")), 400, "continue_final_message", "assistant");
  expect_fault(world.chat(hi(R"("continue_final_message":true,"add_generation_prompt":true)")), 400,
               "continue_final_message", "both");
}

TEST(Chat, RefusesWrongMessages) {
  World world;
  expect_fault(world.chat("{}"), 400, "messages", "missing");
  expect_fault(world.chat(saying("[]")), 400, "messages", "empty");
  expect_fault(world.chat(saying(R"("hi")")), 400, "messages", "an array");
  expect_fault(world.chat(saying("[1]")), 400, "messages[0]", "an object");
  expect_fault(world.chat(saying(R"([{"content":"x"}])")), 400, "messages[0].role", "role");
  expect_fault(world.chat(saying(R"([{"role":"user"}])")), 400, "messages[0].content", "missing");
  expect_fault(world.chat(saying(R"([{"role":"user","content":7}])")), 400, "messages[0].content", "a number");
  expect_fault(world.chat(saying(R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])")), 400,
               "messages[0].content[0]", "'image_url' is not supported yet");
  expect_fault(world.chat(saying(R"([{"role":"user","content":[{"type":"text"}]}])")), 400,
               "messages[0].content[0].text", "text");
  expect_fault(world.chat(saying(R"([{"role":"assistant","tool_calls":[7]}])")), 400, "messages[0].tool_calls",
               "function");
}

TEST(Chat, RefusesWrongTypesAndRangesAndNamesTheField) {
  World world;
  const std::pair<const char*, const char*> wrong[] = {
      {R"("temperature":"hot")", "temperature"},
      {R"("temperature":2.1)", "temperature"},
      {R"("temperature":-1)", "temperature"},
      {R"("top_p":-0.1)", "top_p"},
      {R"("top_p":1.5)", "top_p"},
      {R"("top_k":-2)", "top_k"},
      {R"("top_k":1.5)", "top_k"},
      {R"("min_p":2)", "min_p"},
      {R"("presence_penalty":3)", "presence_penalty"},
      {R"("frequency_penalty":-2.5)", "frequency_penalty"},
      {R"("repetition_penalty":0)", "repetition_penalty"},
      {R"("keep_alive":true)", "keep_alive"},
      {R"("keep_alive":"soon")", "keep_alive"},
      {R"("n":0)", "n"},
      {R"("n":129)", "n"},
      {R"("n":true)", "n"},
      {R"("max_tokens":0)", "max_tokens"},
      {R"("max_completion_tokens":-5)", "max_completion_tokens"},
      {R"("max_tokens":1e30)", "max_tokens"},
      {R"("max_tokens":18446744073709551615)", "max_tokens"},
      {R"("min_tokens":9,"max_tokens":8)", "min_tokens"},
      {R"("logprobs":1)", "logprobs"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs"},
      {R"("top_logprobs":1)", "top_logprobs"},
      {R"("stop":7)", "stop"},
      {R"("stop":[7])", "stop"},
      {R"("stop":"")", "stop"},
      {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])", "stop"},
      {R"("stop_token_ids":[256])", "stop_token_ids"},
      {R"("stop_token_ids":["a"])", "stop_token_ids"},
      {R"("allowed_token_ids":{})", "allowed_token_ids"},
      {R"("logit_bias":[])", "logit_bias"},
      {R"("logit_bias":{"x":1})", "logit_bias"},
      {R"("logit_bias":{"256":1})", "logit_bias"},
      {R"("logit_bias":{"1":101})", "logit_bias"},
      {R"("logit_bias":{"1":"a"})", "logit_bias"},
      {R"("seed":1.5)", "seed"},
      {R"("seed":"1")", "seed"},
      {R"("stream":1)", "stream"},
      {R"("stream_options":{})", "stream_options"},
      {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage"},
      {R"("cache_salt":1)", "cache_salt"},
      {R"("speculation":"maybe")", "speculation"},
      {R"("speculation":true)", "speculation"},
      {R"("speculative_tokens":-1)", "speculative_tokens"},
      {R"("prediction":"text")", "prediction"},
      {R"("prediction":{"type":"content"})", "prediction"},
      {R"("prediction":{"content":"text"})", "prediction"},
      {R"("prediction":{"type":"content","content":["text"]})", "prediction"},
      {R"("priority":"x")", "priority"},
      {R"("tools":{})", "tools"},
      {R"("tools":[1])", "tools"},
      {R"("tool_choice":"maybe")", "tool_choice"},
      {R"("response_format":"json")", "response_format"},
      {R"("response_format":{})", "response_format"},
      {R"("chat_template":1)", "chat_template"},
      {R"("chat_template_kwargs":1)", "chat_template_kwargs"},
      {R"("model":1)", "model"},
      {R"("prompt_logprobs":-1)", "prompt_logprobs"}};
  for (const auto& [members, param] : wrong) {
    SCOPED_TRACE(members);
    expect_fault(world.chat(hi(members)), 400, param, "");
  }
  EXPECT_TRUE(world.generator.seen().empty());
}

TEST(Chat, SaysPlainlyWhatIsNotSupportedYet) {
  World world;
  const std::pair<const char*, const char*> later[] = {
      {R"("response_format":{"type":"json_object"})", "response_format"},
      {R"("response_format":{"type":"json_schema","json_schema":{}})", "response_format"},
      {R"("tool_choice":"required")", "tool_choice"},
      {R"("tool_choice":{"type":"function","function":{"name":"f"}})", "tool_choice"},
      {R"("guided_json":{"type":"object"})", "guided_json"},
      {R"("structured_outputs":{"json":{}})", "structured_outputs"},
      {R"("modalities":["text","audio"])", "modalities"},
      {R"("audio":{"voice":"x"})", "audio"},
      {R"("functions":[{"name":"f"}])", "functions"},
      {R"("use_beam_search":true)", "use_beam_search"},
      {R"("bad_words":["x"])", "bad_words"},
      {R"("truncate_prompt_tokens":5)", "truncate_prompt_tokens"}};
  for (const auto& [members, param] : later) {
    SCOPED_TRACE(members);
    expect_fault(world.chat(hi(members)), 400, param, "not supported yet");
  }
  EXPECT_EQ(
      world
          .chat(hi(R"("response_format":{"type":"text"},"use_beam_search":false,"bad_words":[],"modalities":["text"])"))
          ->status(),
      200);
}

TEST(Chat, RefusesHostileBodies) {
  World world;
  expect_fault(world.chat(""), 400, "", "no body");
  expect_fault(world.chat("{"), 400, "", "JSON");
  expect_fault(world.chat("[]"), 400, "", "an array");
  expect_fault(world.chat("nul"), 400, "", "JSON");
  expect_fault(world.chat(R"({"a":"\ud800"})"), 400, "", "JSON");
  expect_fault(world.chat("{\"a\":\"\xff\"}"), 400, "", "JSON");
  expect_fault(world.chat(R"({"a":1}x)"), 400, "", "JSON");
  expect_fault(world.chat(R"({"a":)" + std::string(10'000, '[')), 400, "", "deeper");
  expect_fault(world.chat(R"({"model":")" + std::string(10 << 20, 'x') + "\"}"), 400, "model", "bytes");
}

TEST(Chat, TellsOfAnUnknownModel) {
  World world;
  const auto answer = world.chat(R"({"model":"gpt-9","messages":[{"role":"user","content":"hi"}]})");
  expect_fault(answer, 404, "model", "gpt-9");
  EXPECT_EQ(answer->json()["error"]["code"], "model_not_found");
  EXPECT_EQ(answer->json()["error"]["type"], "not_found_error");
}

TEST(Chat, TellsOfAPromptOverTheContextWithBothNumbers) {
  World world;
  world.generator.context = 8;
  const auto answer = world.chat(kHi);
  expect_fault(answer, 400, "messages", "10 tokens; the context holds 8");
  EXPECT_EQ(answer->json()["error"]["code"], "context_length_exceeded");
}

TEST(Chat, TellsWhenToTryAgain) {
  World world;
  world.generator.refusal =
      engine::Generator::Refusal{{Code::exhausted, "the queue is full"}, std::chrono::milliseconds(2500)};
  const auto answer = world.chat(kHi);
  expect_fault(answer, 429, "", "queue is full");
  EXPECT_EQ(answer->header("retry-after"), "3");
  EXPECT_EQ(answer->header("x-ashlar-dropped-reason"), "");
  EXPECT_EQ(answer->json()["error"]["code"], "rate_limit_exceeded");
  world.generator.refusal =
      engine::Generator::Refusal{.error = {Code::unavailable, "too many wait"}, .dropped = engine::Dropped::saturated};
  EXPECT_EQ(world.chat(kHi)->status(), 503);
  EXPECT_EQ(world.chat(kHi)->header("x-ashlar-dropped-reason"), "rejected-saturated");
  EXPECT_EQ(world.chat(kHi)->header("retry-after"), "1");
}

TEST(Chat, TellsClientsNotToTryAgainWhereTheyWouldNotWait) {
  World world;
  const auto asked = [&](Code code, std::string reason, int seconds) {
    world.generator.refusal = engine::Generator::Refusal{
        .error = {code, "no"}, .retry_after = std::chrono::seconds(seconds), .reason = std::move(reason)};
    const auto answer = world.chat(kHi);
    return std::pair(answer->header("retry-after"), answer->header("x-should-retry"));
  };
  using Told = std::pair<std::string, std::string>;
  EXPECT_EQ(asked(Code::exhausted, "", 60), Told("60", ""));
  EXPECT_EQ(asked(Code::exhausted, "", 61), Told("61", "false"));
  EXPECT_EQ(asked(Code::exhausted, "insufficient_quota", 0), Told("3600", "false"));
  EXPECT_EQ(asked(Code::exhausted, "insufficient_quota", 5), Told("5", ""));
  EXPECT_EQ(asked(Code::unavailable, "upstream_quota", 0), Told("3600", "false"));
  EXPECT_EQ(asked(Code::unavailable, "upstream_refuses_us", 0), Told("60", "false"));
  EXPECT_EQ(asked(Code::unavailable, "upstream_error", 0), Told("1", ""));
  world.generator.refusal =
      engine::Generator::Refusal{.error = {Code::exhausted, "spent"}, .reason = "insufficient_quota"};
  EXPECT_EQ(world.chat(kHi)->json()["error"]["type"], "insufficient_quota");
}

TEST(Chat, FailsWithAStatusBeforeTheStreamAndWithinItAfter) {
  World world;
  world.generator.script = [](const engine::Request&) {
    return std::vector<engine::Event>{engine::Failed{{Code::deadline, "too late"}}};
  };
  expect_fault(world.chat(hi(R"("stream":true)")), 408, "", "too late");
  world.generator.script = [](const engine::Request&) {
    return std::vector<engine::Event>{engine::Started{}, engine::Text{.text = "a"},
                                      engine::Failed{{Code::internal, "it broke"}}};
  };
  const auto answer = world.chat(hi(R"("stream":true)"));
  EXPECT_EQ(answer->status(), 200);
  const auto events = answer->events();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(Json::parse(events[2])["error"]["message"], "it broke");
  EXPECT_EQ(world.chat(kHi)->status(), 500);
}

TEST(Chat, DropsTheTicketWhenTheClientLeaves) {
  World world;
  world.generator.hold = true;
  const auto streamed = world.send("POST", "/v1/chat/completions", hi(R"("stream":true)"));
  streamed->wait_for_text("Hel");
  streamed->leave();
  world.generator.wait_cancelled(1);
  const auto whole = world.send("POST", "/v1/chat/completions", kHi);
  whole->leave();
  world.generator.wait_cancelled(2);
}

TEST(Chat, DropsEveryTicketWhenAnAnswerEnds) {
  World world;
  for (int i = 0; i < 100; ++i) world.chat(kHi);
  world.generator.wait_idle();
}

TEST(Chat, PingsAQuietStream) {
  World world({.sse_ping = std::chrono::milliseconds(5)});
  world.generator.hold = true;
  const auto answer = world.send("POST", "/v1/chat/completions", hi(R"("stream":true)"));
  answer->wait_for_text("Hel");
  answer->wait_for_text(": ping\n\n: ping\n\n");
}

TEST(Chat, WhoAskedForTheWayHasItsHeadWithTheAnswerAlone) {
  World world({.sse_ping = std::chrono::milliseconds(5)});
  world.generator.script = [](const engine::Request&) { return std::vector<engine::Event>{}; };
  const auto send = [&](const char* explain) {
    return world.send("POST", "/v1/chat/completions", hi(R"("stream":true)"), {{"x-ashlar-explain", explain}});
  };
  const auto told = send("true"), other = send("false");
  other->wait_for_text(": ping\n\n: ping\n\n");
  EXPECT_EQ(told->body(), "");
}

TEST(Chat, ManyAtOnceFromManyThreads) {
  World world;
  std::vector<std::jthread> clients;
  std::atomic<int> right = 0;
  for (int i = 0; i < 4; ++i)
    clients.emplace_back([&, i] {
      for (int j = 0; j < 100; ++j) {
        auto exchange = world.send("POST", "/v1/chat/completions", hi(j % 2 ? R"("stream":true)" : R"("n":2)"));
        if ((i + j) % 5 == 0) {
          exchange->leave();
          continue;
        }
        exchange->wait_ended();
        right += exchange->status() == 200;
      }
    });
  clients.clear();
  EXPECT_EQ(right, 320);
  world.generator.wait_idle();
}

TEST(Chat, TheHeadTellsWhatTheAnswerTookBesideTheModel) {
  World world;
  world.generator.script = [](const engine::Request& request) -> std::vector<engine::Event> {
    return {engine::Started{.prompt_tokens = 3, .asked = request.arrived + std::chrono::milliseconds(250)},
            engine::ChoiceEnd{}, engine::Finished{}};
  };
  for (const char* more : {R"("stream":false)", R"("stream":true)"}) {
    const double told = std::stod(world.chat(hi(more))->header("x-ashlar-overhead-ms"));
    EXPECT_GE(told, 250);
    EXPECT_LT(told, 100'000);
  }
  const auto malformed = world.chat("{}");
  EXPECT_NE(malformed->status(), 200);
  EXPECT_GE(std::stod(malformed->header("x-ashlar-overhead-ms")), 0);
  EXPECT_EQ(world.ask("GET", "/v1/models/none")->header("x-ashlar-overhead-ms"), "");
}

}  // namespace
}  // namespace ashlar::api
