// The other kinds: what goes out, and what their streams become.
#include <gtest/gtest.h>

#include "base/crc32.h"
#include "base/json_full.h"
#include "gateway/upstreams/eventstream.h"
#include "gateway/upstreams/fakes_for_test.h"
#include "gateway/upstreams/wire.h"
#include "store/s3.h"

namespace ashlar::gateway {
namespace {

using engine::FinishReason;
using Exchange = FakeServer::Turn;

// A conversation with everything in it.
Json rich() {
  return Json::parse(
      R"({"model":"m","temperature":1.5,"top_p":0.9,"stop":"END","max_tokens":100,"tool_choice":"required","parallel_tool_calls":false,
    "user":"u1",
    "messages":[{"role":"system","content":"Be brief."},
      {"role":"user","content":[{"type":"text","text":"Look"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]},
      {"role":"assistant","content":"Hm","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
      {"role":"tool","tool_call_id":"c1","content":"sunny"},{"role":"user","content":"And?"}],
    "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}]})");
}

// Answers every request with `script` and keeps the last.
struct Kind {
  Kind(std::string kind, std::function<void(const Exchange&)> script, std::string_view path = "")
      : server([this, script = std::move(script)](const Exchange& exchange, int) {
          head = exchange.head;
          body = exchange.body.empty() ? Json() : exchange.json();
          script(exchange);
        }),
        options(options_for(server, std::move(kind), path)) {
    ::setenv("ASHLAR_TEST_KIND_KEY", "k3y", 1);
    options.api_key = "env:ASHLAR_TEST_KIND_KEY";
    options.max_attempts = 1;
  }
  Asked ask(Json request = Json::object()) { return Asked(options, chat_request("Hello", std::move(request))); }
  std::string head;
  Json body;
  FakeServer server;
  UpstreamOptions options;
};

std::string sse(std::initializer_list<const char*> events) {
  std::string out;
  for (const std::string event : events) {
    const Json json = Json::parse(event);
    out += "event: " + json["type"].get<std::string>() + "\ndata: " + event + "\n\n";
  }
  return out;
}

TEST(Anthropic, ARichConversationGoesOutInItsForm) {
  Kind kind("anthropic", [](const Exchange& exchange) {
    exchange.answer(529, "application/json",
                    R"({"type":"error","error":{"type":"overloaded_error","message":"busy"}})");
  });
  const auto failed = kind.ask(rich()).sink.failed();
  EXPECT_EQ(failed->status, 503);
  EXPECT_NE(kind.head.find("POST /v1/messages "), std::string::npos);
  EXPECT_NE(kind.head.find("x-api-key: k3y"), std::string::npos);
  EXPECT_NE(kind.head.find("anthropic-version: 2023-06-01"), std::string::npos);
  EXPECT_EQ(kind.body, Json::parse(R"({"model":"theirs","max_tokens":100,"system":[{"type":"text","text":"Be brief."}],
    "messages":[{"role":"user","content":[{"type":"text","text":"Look"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]},
      {"role":"assistant","content":[{"type":"text","text":"Hm"},{"type":"tool_use","id":"c1","name":"f","input":{"a":1}}]},
      {"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":"sunny"},{"type":"text","text":"And?"}]}],
    "temperature":1.0,"top_p":0.9,"metadata":{"user_id":"u1"},"stop_sequences":["END"],
    "tools":[{"name":"f","input_schema":{"type":"object"},"description":"d"}],
    "tool_choice":{"type":"any","disable_parallel_tool_use":true},"stream":true})"))
      << kind.body.dump();
}

const auto anthropic_stream = [](const Exchange& exchange) {
  exchange.begin();
  exchange.send(sse(
      {R"({"type":"message_start","message":{"usage":{"input_tokens":5,"cache_read_input_tokens":3,"cache_creation_input_tokens":2,"cache_creation":{"ephemeral_5m_input_tokens":1,"ephemeral_1h_input_tokens":1},"output_tokens":1}}})",
       R"({"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}})",
       R"({"type":"ping"})",
       R"({"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}})",
       R"({"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"SIG"}})",
       R"({"type":"content_block_stop","index":0})",
       R"({"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}})",
       R"({"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hi"}})",
       R"({"type":"content_block_stop","index":1})",
       R"({"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"t1","name":"f","input":{}}})",
       R"({"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}})",
       R"({"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"1}"}})",
       R"({"type":"content_block_stop","index":2})",
       R"({"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"t2","name":"g","input":{}}})",
       R"({"type":"content_block_stop","index":3})",
       R"({"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":17}})",
       R"({"type":"message_stop"})"}));
};

TEST(Anthropic, ItsEventsBecomeOurs) {
  Kind kind("anthropic", anthropic_stream);
  auto asked = kind.ask(rich());
  EXPECT_EQ(asked.sink.thoughts(), "Hm.");
  EXPECT_EQ(asked.sink.text(), "Hi");
  EXPECT_EQ(asked.sink.calls(), (std::vector<std::string>{"t1 f {\"a\":1}", "t2 g {}"}));
  EXPECT_EQ(asked.sink.reasons(), std::vector{FinishReason::tool_calls});
  const auto usage = asked.sink.usage();
  EXPECT_EQ(usage.prompt_tokens, 10);
  EXPECT_EQ(usage.cached_tokens, 3);
  EXPECT_EQ(usage.written_tokens, 2);
  EXPECT_EQ(usage.hour_tokens, 1);
  EXPECT_EQ(asked.sink.all<engine::Started>().at(0).written_tokens, 2);
  EXPECT_EQ(asked.sink.all<engine::Started>().at(0).hour_tokens, 1);
  EXPECT_EQ(usage.completion_tokens, 17);
  EXPECT_FALSE(usage.estimated);
  EXPECT_EQ((*asked.sink.all<engine::Members>().at(0).json)["thinking_blocks"][0]["signature"], "SIG");
}

TEST(Anthropic, ASchemaIsAskedForAsAToolAndTheAnswerIsItsInput) {
  Kind kind("anthropic", [](const Exchange& exchange) {
    exchange.answer(200, "application/json",
                    R"({"type":"message","content":[{"type":"tool_use","id":"t","name":"answer","input":{"x":1}}],
      "stop_reason":"tool_use","usage":{"input_tokens":1,"output_tokens":2}})");
  });
  auto asked = kind.ask(Json::parse(
      R"({"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","properties":{"x":{}}}}}})"));
  EXPECT_EQ(asked.sink.text(), R"({"x":1})");
  EXPECT_TRUE(asked.sink.calls().empty());
  EXPECT_EQ(asked.sink.reasons(), std::vector{FinishReason::stop});
  EXPECT_EQ(kind.body["tool_choice"]["name"], "answer");
}

// What a client may put beside its texts, and what it brings back from tools.
Json parts() {
  return Json::parse(R"({"max_tokens":9000,"reasoning_effort":"high","temperature":0.5,
    "messages":[{"role":"user","content":[
        {"type":"file","file":{"filename":"a b.plan.pdf","file_data":"data:application/pdf;base64,JVBERi0="},"cache_control":{"type":"ephemeral"}},
        {"type":"file","file":{"filename":"n.txt","file_data":"data:text/plain;base64,aGk="}}]},
      {"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}],
       "thinking_blocks":[{"type":"redacted_thinking","data":"ENC"}]},
      {"role":"tool","tool_call_id":"c1","content":[{"type":"text","text":"seen"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],
    "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}},"cache_control":{"type":"ephemeral","ttl":"1h"}}]})");
}

const auto refuses = [](const Exchange& exchange) { exchange.answer(400, "application/json", R"({"message":"no"})"); };

TEST(Anthropic, FilesPicturesOfToolsAndMarksOfTheCacheGoOut) {
  Kind kind("anthropic", refuses);
  kind.ask(parts());
  EXPECT_EQ(kind.body["messages"], Json::parse(R"([{"role":"user","content":[
      {"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBERi0="},"title":"a b.plan.pdf","cache_control":{"type":"ephemeral"}},
      {"type":"document","source":{"type":"text","media_type":"text/plain","data":"hi"},"title":"n.txt"}]},
    {"role":"assistant","content":[{"type":"redacted_thinking","data":"ENC"},{"type":"tool_use","id":"c1","name":"f","input":{}}]},
    {"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":[{"type":"text","text":"seen"},
      {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}])"))
      << kind.body.dump();
  EXPECT_EQ(kind.body["tools"][0]["cache_control"]["type"], "ephemeral");
  EXPECT_EQ(kind.body["thinking"]["budget_tokens"], 6750);
  EXPECT_FALSE(kind.body.contains("temperature"));
}

TEST(Anthropic, ThoughtsAreNotAskedForWhereTheyWouldBeRefused) {
  Kind kind("anthropic", refuses);
  Json request = parts();
  request["messages"][1].erase("thinking_blocks");  // most clients do not keep them
  kind.ask(request);
  EXPECT_FALSE(kind.body.contains("thinking"));
  request = parts();
  request["tool_choice"] = "required";
  kind.ask(request);
  EXPECT_FALSE(kind.body.contains("thinking"));
}

TEST(Anthropic, ThoughtsLeaveRoomForTheAnswer) {
  Kind kind("anthropic", refuses);
  const auto asked = [&](const char* members) {
    kind.ask(Json::parse(members));
    const int thoughts = kind.body.contains("thinking") ? kind.body["thinking"].value("budget_tokens", -1) : 0;
    return std::pair(kind.body["max_tokens"].get<int>(), thoughts);
  };
  using Told = std::pair<int, int>;  // the most tokens, and those of them for thoughts
  EXPECT_EQ(asked("{}"), Told(4096, 0));
  EXPECT_EQ(asked(R"({"reasoning_effort":"medium"})"), Told(8192, 4096));
  EXPECT_EQ(asked(R"({"reasoning_effort":"high"})"), Told(20480, 16384));
  EXPECT_EQ(asked(R"({"reasoning_effort":"high","max_tokens":4000})"), Told(4000, 3000));
  EXPECT_EQ(asked(R"({"reasoning_effort":"low","max_tokens":1100})"), Told(1100, 0));
  EXPECT_EQ(asked(R"({"thinking":{"type":"enabled","budget_tokens":10000}})"), Told(14096, 10000));
  EXPECT_EQ(asked(R"({"thinking":{"type":"disabled"}})"), Told(4096, -1));
  EXPECT_EQ(asked(R"({"reasoning_effort":"high","response_format":{"type":"json_object"}})"), Told(4096, 0));
}

TEST(Anthropic, AnErrorEventAndWhatItCannotBeAsked) {
  Kind kind("anthropic", [](const Exchange& exchange) {
    exchange.begin();
    exchange.send(sse({R"({"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}})"}));
  });
  EXPECT_EQ(kind.ask().sink.failed()->status, 503);
  const auto refused = kind.ask({{"n", 2}}).refused;
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->error.code, Code::unsupported);
}

TEST(Ollama, ARichConversationGoesOutAndItsLinesComeBack) {
  Kind kind("ollama", [](const Exchange& exchange) {
    exchange.begin("application/x-ndjson");
    exchange.send(
        "{\"message\":{\"role\":\"assistant\",\"thinking\":\"Hm\"},\"done\":false}\n{\"message\":{\"content\":\"H");
    exchange.send(
        "i\"},\"done\":false}\n{\"message\":{\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
        "\"arguments\":{\"a\":1}}}]},\"done\":false}\n");
    exchange.send(
        "{\"message\":{\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":4,\"eval_count\":"
        "6}");
  });
  Json request = rich();
  request.erase("tool_choice");
  auto asked = kind.ask(request);
  EXPECT_NE(kind.head.find("POST /api/chat "), std::string::npos);
  EXPECT_EQ(
      kind.body,
      Json::parse(
          R"({"model":"theirs","options":{"temperature":1.5,"top_p":0.9,"stop":["END"],"num_predict":100},"stream":true,
    "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}],
    "messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Look","images":["AAAA"]},
      {"role":"assistant","content":"Hm","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}}]},
      {"role":"tool","content":"sunny","tool_name":"f"},{"role":"user","content":"And?"}]})"))
      << kind.body.dump();
  EXPECT_EQ(asked.sink.text(), "Hi");
  EXPECT_EQ(asked.sink.thoughts(), "Hm");
  ASSERT_EQ(asked.sink.calls().size(), 1u);
  EXPECT_TRUE(asked.sink.calls()[0].ends_with(" f {\"a\":1}"));
  EXPECT_EQ(asked.sink.usage().completion_tokens, 6);
  EXPECT_EQ(asked.sink.reasons(), std::vector{FinishReason::tool_calls});
  EXPECT_TRUE(kind.ask(rich()).refused) << "it cannot be made to call a tool";
}

TEST(Ollama, ErrorsAndCutLinesAreTold) {
  Kind broken("ollama", [](const Exchange& exchange) {
    exchange.begin("application/x-ndjson");
    exchange.send("{\"message\":{\"content\":\"Hi\"}}\n{\"mess");
  });
  EXPECT_EQ(broken.ask().sink.failed()->status, 502);
  Kind angry("ollama", [](const Exchange& exchange) {
    exchange.answer(404, "application/json", R"({"error":"model 'x' not found"})");
  });
  EXPECT_EQ(angry.ask().sink.failed()->error.code, Code::not_found);
}

TEST(Azure, ADeploymentHasItsPathVersionAndKey) {
  Kind kind("azure", [](const Exchange& exchange) {
    exchange.answer(
        200, "application/json",
        R"({"choices":[{"message":{"content":"ok"},"finish_reason":"content_filter"}],"usage":{"prompt_tokens":1,"completion_tokens":1}})");
  });
  kind.options.api_version = "2025-01-01-preview";
  auto asked = kind.ask();
  EXPECT_EQ(asked.sink.text(), "ok");
  EXPECT_EQ(asked.sink.reasons(), std::vector{FinishReason::content_filter});
  EXPECT_TRUE(kind.head.starts_with("POST /openai/deployments/theirs/chat/completions?api-version=2025-01-01-preview "))
      << kind.head;
  EXPECT_NE(kind.head.find("api-key: k3y"), std::string::npos);
}

TEST(OpenAi, TheMostTokensHaveTheNameThatTheServerKnows) {
  const auto sent_text = [](const char* kind, const char* url, const char* members, const char* version = "") {
    UpstreamOptions options{.name = "up", .kind = kind, .url = url};
    options.api_version = version;
    engine::Request request = chat_request("Hello", Json::parse(members));
    request.stopping.max_tokens = 50;  // of a limit or a cap
    return make_wire(options, {})->ask(request, "theirs")->body;
  };
  const auto sent = [&](const char* kind, const char* url, const char* members, const char* version = "") {
    const Json body = Json::parse(sent_text(kind, url, members, version));
    return std::pair(body.value("max_tokens", 0), body.value("max_completion_tokens", 0));
  };
  using Told = std::pair<int, int>;
  EXPECT_EQ(sent("openai", "http://10.0.0.1:8000/v1", "{}"), Told(50, 0));
  EXPECT_EQ(sent("openai", "https://api.openai.com/v1", "{}"), Told(0, 50));
  EXPECT_EQ(sent("openai", "https://eu.api.openai.com/v1", "{}"), Told(0, 50));
  EXPECT_EQ(sent("openai", "https://x.openai.azure.com/openai/v1", "{}"), Told(0, 50));
  EXPECT_EQ(sent("openai", "https://api.openai.com.example/v1", "{}"), Told(50, 0));
  EXPECT_EQ(sent("openai", "https://api.openai.com/v1", R"({"max_tokens":90})"), Told(50, 0)) << "as its client said";
  EXPECT_EQ(sent("openai", "http://10.0.0.1:8000/v1", R"({"max_completion_tokens":90})"), Told(0, 50));
  const std::string null = sent_text("openai", "http://10.0.0.1:8000/v1", R"({"max_completion_tokens":null})");
  EXPECT_TRUE(null.contains(R"("max_tokens":50)")) << null;
  EXPECT_EQ(sent("azure", "https://x.openai.azure.com", "{}"), Told(0, 50));
  EXPECT_EQ(sent("azure", "https://x.openai.azure.com", "{}", "2024-06-01"), Told(50, 0));
}

// A stream whose filter runs beside the model: what it finds comes with the pieces, or behind the end.
TEST(Azure, WhatItsFilterFindsIsPassedOn) {
  Kind kind("azure", [](const Exchange& exchange) {
    exchange.begin();
    for (
        const char* const event :
        {R"({"choices":[],"prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]})",
         R"({"choices":[{"index":0,"delta":{"role":"assistant","content":""},"content_filter_results":{},"finish_reason":null}]})",
         R"({"choices":[{"index":0,"delta":{"content":"ok"},"content_filter_results":{"hate":{"filtered":false,"severity":"low"}},"finish_reason":null}]})",
         R"({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]})",
         R"({"choices":[{"index":0,"finish_reason":null,"content_filter_results":{"violence":{"filtered":false,"severity":"safe"}},"content_filter_offsets":{"check_offset":44}}]})",
         "[DONE]"})
      exchange.send(std::string("data: ") + event + "\n\n");
  });
  auto asked = kind.ask();
  EXPECT_EQ(asked.sink.text(), "ok");
  const auto members = asked.sink.all<engine::Members>();
  ASSERT_EQ(members.size(), 3u);
  EXPECT_EQ(members[0].of, engine::Members::Of::answer);
  EXPECT_EQ((*members[0].json)["prompt_filter_results"][0]["content_filter_results"]["hate"]["severity"], "safe");
  EXPECT_EQ(members[1].of, engine::Members::Of::choice);
  EXPECT_EQ((*members[1].json)["content_filter_results"]["hate"]["severity"], "low");
  EXPECT_EQ((*members[2].json)["content_filter_offsets"]["check_offset"], 44);
  EXPECT_TRUE((*members[2].json)["content_filter_results"].contains("violence"));
}

TEST(OpenAi, WhatACacheWasWrittenWithIsCounted) {
  for (
      const char* const usage :
      {R"({"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":2,"cache_write_tokens":5}})",
       R"({"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":2,"cache_creation_tokens":5}})",
       R"({"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":2,"cache_creation_input_tokens":5}})",
       R"({"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":2},"cache_creation_input_tokens":5})",
       R"({"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":2,"cache_creation_tokens":5,"cache_creation_token_details":{"ephemeral_5m_input_tokens":1,"ephemeral_1h_input_tokens":4}}})",
       R"({"prompt_tokens":9,"cache_creation_input_tokens":5,"cache_creation":{"ephemeral_1h_input_tokens":4}})",
       R"({"prompt_tokens":9,"cache_creation_input_tokens":5,"cache_creation":{"x":9},"prompt_tokens_details":[]})"}) {
    Kind kind("openai", [&](const Exchange& exchange) {
      exchange.begin();
      exchange.send("data: " + Json{{"choices", {{{"delta", {{"content", "ok"}}}, {"finish_reason", "stop"}}}}}.dump() +
                    "\n\ndata: {\"choices\":[],\"usage\":" + usage + "}\n\ndata: [DONE]\n\n");
    });
    const auto told = kind.ask().sink.usage();
    EXPECT_EQ(told.written_tokens, 5) << usage;
    EXPECT_EQ(told.hour_tokens, std::string_view(usage).contains("_1h_") ? 4 : 0) << usage;
  }
}

std::string converse_event(const std::string& type, const std::string& payload, const std::string& kind = "event") {
  return write_stream_message({{":message-type", kind},
                               {kind == "event" ? ":event-type" : ":exception-type", type},
                               {":content-type", "application/json"}},
                              payload);
}

TEST(Bedrock, ConverseGoesOutSignedAndItsEventsComeBack) {
  Kind kind("bedrock", [](const Exchange& exchange) {
    exchange.begin("application/vnd.amazon.eventstream");
    const std::string all =
        converse_event("messageStart", R"({"role":"assistant"})") +
        converse_event("contentBlockDelta", R"({"contentBlockIndex":0,"delta":{"reasoningContent":{"text":"Hm"}}})") +
        converse_event("contentBlockDelta",
                       R"({"contentBlockIndex":0,"delta":{"reasoningContent":{"signature":"S"}}})") +
        converse_event("contentBlockStop", R"({"contentBlockIndex":0})") +
        converse_event("contentBlockDelta", R"({"contentBlockIndex":1,"delta":{"text":"Hi"}})") +
        converse_event("contentBlockStop", R"({"contentBlockIndex":1})") +
        converse_event("contentBlockStart",
                       R"({"contentBlockIndex":2,"start":{"toolUse":{"toolUseId":"t","name":"f"}}})") +
        converse_event("contentBlockDelta", R"({"contentBlockIndex":2,"delta":{"toolUse":{"input":"{\"a\":1}"}}})") +
        converse_event("contentBlockStop", R"({"contentBlockIndex":2})") +
        converse_event("messageStop", R"({"stopReason":"tool_use"})") +
        converse_event(
            "metadata",
            R"({"usage":{"inputTokens":8,"outputTokens":9,"cacheReadInputTokens":2,"cacheWriteInputTokens":4,"cacheDetails":[{"ttl":"1h","inputTokens":3},{"ttl":"5m","inputTokens":1}]}})");
    for (std::size_t i = 0; i < all.size(); i += 37) exchange.send(std::string_view(all).substr(i, 37));
  });
  kind.options.api_key.clear();
  kind.options.region = "us-east-1";
  ::setenv("ASHLAR_TEST_AWS_ID", "AKID", 1);
  ::setenv("ASHLAR_TEST_AWS_SECRET", "secret", 1);
  kind.options.access_key = "env:ASHLAR_TEST_AWS_ID";
  kind.options.secret_key = "env:ASHLAR_TEST_AWS_SECRET";
  kind.options.models = {{"m", "anthropic.claude:0"}};
  auto asked = kind.ask(rich());
  EXPECT_TRUE(kind.head.starts_with("POST /model/anthropic.claude%3A0/converse-stream ")) << kind.head;
  EXPECT_NE(kind.head.find("authorization: AWS4-HMAC-SHA256 Credential=AKID/"), std::string::npos) << kind.head;
  EXPECT_NE(kind.head.find("/us-east-1/bedrock/aws4_request"), std::string::npos);
  EXPECT_EQ(
      kind.body,
      Json::parse(
          R"({"messages":[{"role":"user","content":[{"text":"Look"},{"image":{"format":"png","source":{"bytes":"AAAA"}}}]},
    {"role":"assistant","content":[{"text":"Hm"},{"toolUse":{"toolUseId":"c1","name":"f","input":{"a":1}}}]},
    {"role":"user","content":[{"toolResult":{"toolUseId":"c1","content":[{"text":"sunny"}]}},{"text":"And?"}]}],
    "system":[{"text":"Be brief."}],"inferenceConfig":{"maxTokens":100,"temperature":1.5,"topP":0.9,"stopSequences":["END"]},
    "toolConfig":{"tools":[{"toolSpec":{"name":"f","inputSchema":{"json":{"type":"object"}},"description":"d"}}],"toolChoice":{"any":{}}}})"))
      << kind.body.dump();
  EXPECT_EQ(asked.sink.text(), "Hi");
  EXPECT_EQ(asked.sink.thoughts(), "Hm");
  EXPECT_EQ(asked.sink.calls(), std::vector<std::string>{"t f {\"a\":1}"});
  EXPECT_EQ(asked.sink.usage().prompt_tokens, 14);
  EXPECT_EQ(asked.sink.usage().written_tokens, 4);
  EXPECT_EQ(asked.sink.usage().hour_tokens, 3);
  EXPECT_EQ(asked.sink.usage().completion_tokens, 9);
}

TEST(Bedrock, FilesPicturesOfToolsAndMarksOfTheCacheGoOut) {
  Kind kind("bedrock", refuses);
  kind.options.region = "r";
  kind.options.models = {{"m", "us.anthropic.claude-sonnet:0"}};
  Json request = parts();
  request["tool_choice"] = "none";
  kind.ask(request);
  EXPECT_EQ(kind.body["messages"], Json::parse(R"([{"role":"user","content":[
      {"document":{"format":"pdf","source":{"bytes":"JVBERi0="},"name":"a-b-plan-pdf"}},{"cachePoint":{"type":"default"}},
      {"document":{"format":"txt","source":{"bytes":"aGk="},"name":"n-txt"}}]},
    {"role":"assistant","content":[{"reasoningContent":{"redactedContent":"ENC"}},{"toolUse":{"toolUseId":"c1","name":"f","input":{}}}]},
    {"role":"user","content":[{"toolResult":{"toolUseId":"c1","content":[{"text":"seen"},{"image":{"format":"png","source":{"bytes":"AAAA"}}}]}}]}])"))
      << kind.body.dump();
  EXPECT_EQ(kind.body["toolConfig"]["tools"][1], Json::parse(R"({"cachePoint":{"type":"default","ttl":"1h"}})"));
  EXPECT_EQ(kind.body["additionalModelRequestFields"],
            Json::parse(R"({"thinking":{"type":"enabled","budget_tokens":6750}})"));
  EXPECT_EQ(kind.body["inferenceConfig"], Json::parse(R"({"maxTokens":9000})"));
  request.erase("tools");
  kind.ask(request);
  EXPECT_EQ(kind.body["toolConfig"]["tools"][0]["toolSpec"]["name"], "f") << "calls are refused without tools";
  kind.options.models = {{"m", "openai.gpt-oss"}};
  kind.ask(request);
  EXPECT_EQ(kind.body["additionalModelRequestFields"], Json::parse(R"({"reasoning_effort":"high"})"));
}

TEST(Bedrock, HiddenThoughtsAndCallsWithoutInputComeBack) {
  Kind kind("bedrock", [](const Exchange& exchange) {
    exchange.begin("application/vnd.amazon.eventstream");
    exchange.send(converse_event("contentBlockDelta",
                                 R"({"contentBlockIndex":0,"delta":{"reasoningContent":{"redactedContent":"ENC"}}})") +
                  converse_event("contentBlockStop", R"({"contentBlockIndex":0})") +
                  converse_event("contentBlockStart",
                                 R"({"contentBlockIndex":1,"start":{"toolUse":{"toolUseId":"t","name":"f"}}})") +
                  converse_event("contentBlockStop", R"({"contentBlockIndex":1})") +
                  converse_event("messageStop", R"({"stopReason":"tool_use"})"));
  });
  kind.options.region = "r";
  auto asked = kind.ask(rich());
  EXPECT_EQ(asked.sink.calls(), std::vector<std::string>{"t f {}"});
  EXPECT_EQ((*asked.sink.all<engine::Members>().at(0).json)["thinking_blocks"],
            Json::parse(R"([{"type":"redacted_thinking","data":"ENC"}])"));
  Kind failed("bedrock", [](const Exchange& exchange) {
    exchange.answer(424, "application/json", R"({"message":"The model failed"})");
  });
  failed.options.region = "r";
  EXPECT_EQ(failed.ask().sink.failed()->status, 502) << "not the client's fault";
}

TEST(Bedrock, ExceptionsAndBrokenEventsAreTold) {
  for (const bool flipped : {false, true}) {
    Kind kind("bedrock", [&](const Exchange& exchange) {
      exchange.begin("application/vnd.amazon.eventstream");
      std::string event = converse_event("throttlingException", R"({"message":"Too many"})", "exception");
      if (flipped) event[20] ^= 1;
      exchange.send(event);
    });
    kind.options.region = "r";
    const auto failed = kind.ask().sink.failed();
    EXPECT_EQ(failed->error.code, flipped ? Code::corrupt : Code::exhausted);
    EXPECT_NE(kind.head.find("authorization: Bearer k3y"), std::string::npos);
  }
}

// Against the same computed by Python's hashlib and hmac from AWS's description: the path is encoded twice.
TEST(Bedrock, TheSignatureIsThatOfItsService) {
  net::ClientRequest request{
      .method = "POST",
      .url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude%3A0/converse",
      .headers = {{"content-type", "application/json"}},
      .body = "{}"};
  store::sign_s3(request, {.id = "AKID", .secret = "SECRET", .region = "us-east-1", .service = "bedrock"},
                 std::chrono::sys_days(std::chrono::January / 2 / 2026) + std::chrono::hours(3) +
                     std::chrono::minutes(4) + std::chrono::seconds(5));
  EXPECT_EQ(net::find_header(request.headers, "authorization"),
            "AWS4-HMAC-SHA256 Credential=AKID/20260102/us-east-1/bedrock/aws4_request,"
            "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date,"
            "Signature=e22f06ce2d35a84cc58541ae5b53035a8a94055d347e5f1941151dd3cfa9a93e");
}

TEST(DashScope, ItsFormGoesOutAndComesBack) {
  Kind kind("dashscope", [](const Exchange& exchange) {
    exchange.begin();
    exchange.send(
        "id:1\nevent:result\n:HTTP_STATUS/"
        "200\ndata:{\"output\":{\"choices\":[{\"message\":{\"content\":\"H\",\"reasoning_content\":\"Hm\"},\"finish_"
        "reason\":\"null\"}]},\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}\n\n");
    exchange.send(
        "id:2\nevent:result\ndata:{\"output\":{\"choices\":[{\"message\":{\"content\":\"i\",\"tool_calls\":[{\"index\":"
        "0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}]},"
        "\"usage\":{\"input_tokens\":3,\"output_tokens\":2}}\n\n");
  });
  Json request = Json::parse(R"({"temperature":0.5,"enable_thinking":true,"max_tokens":5})");
  auto asked = kind.ask(request);
  EXPECT_TRUE(kind.head.starts_with("POST /api/v1/services/aigc/text-generation/generation ")) << kind.head;
  EXPECT_NE(kind.head.find("x-dashscope-sse: enable"), std::string::npos);
  EXPECT_EQ(nlohmann::json(kind.body),
            nlohmann::json::parse(R"({"model":"theirs","input":{"messages":[{"role":"user","content":"Hello"}]},
    "parameters":{"result_format":"message","incremental_output":true,"temperature":0.5,"enable_thinking":true,"max_tokens":5}})"));
  EXPECT_EQ(asked.sink.text(), "Hi");
  EXPECT_EQ(asked.sink.thoughts(), "Hm");
  EXPECT_EQ(asked.sink.calls(), std::vector<std::string>{"a f {}"});
  EXPECT_EQ(asked.sink.usage().completion_tokens, 2);
  Kind angry("dashscope", [](const Exchange& exchange) {
    exchange.answer(
        400, "application/json",
        R"({"code":"DataInspectionFailed","message":"Input data may contain inappropriate content.","request_id":"r"})");
  });
  EXPECT_EQ(angry.ask().sink.failed()->reason, "content_policy_violation");
  Kind late("dashscope", [](const Exchange& exchange) {
    exchange.begin();
    exchange.send("event:error\n:HTTP_STATUS/400\ndata:{\"code\":\"DataInspectionFailed\",\"message\":\"no\"}\n\n");
  });
  EXPECT_EQ(late.ask().sink.failed()->reason, "content_policy_violation");
}

TEST(DashScope, LogprobsComeBackAndADeveloperIsTheSystem) {
  Kind kind("dashscope", [](const Exchange& exchange) {
    exchange.begin();
    exchange.send(
        "data:{\"output\":{\"choices\":[{\"message\":{\"content\":\"H\"},\"logprobs\":{\"content\":[{\"token\":\"H\","
        "\"logprob\":-0.5,\"bytes\":[72],\"top_logprobs\":[]}]},\"finish_reason\":\"stop\"}]}}\n\n");
  });
  auto asked = kind.ask(Json::parse(R"({"logprobs":true,"messages":[{"role":"developer","content":"Be brief."}]})"));
  EXPECT_EQ(kind.body["input"]["messages"][0]["role"], "system");
  const auto texts = asked.sink.all<engine::Text>();
  ASSERT_EQ(texts.size(), 1u);
  ASSERT_EQ(texts[0].logprobs.size(), 1u);
  EXPECT_EQ(texts[0].logprobs[0].logprob, -0.5f);
}

TEST(Kinds, WhatCannotBeSaidThereIsRefusedNotLeftOut) {
  for (const char* name : {"ollama", "dashscope"}) {
    Kind kind(name, refuses);
    for (const char* part :
         {R"({"type":"file","file":{"file_id":"f"}})", R"({"type":"input_audio","input_audio":{}})"}) {
      Json request{{"messages", Json::array({Json{{"role", "user"}, {"content", Json::array({Json::parse(part)})}}})}};
      const auto refused = kind.ask(request).refused;
      ASSERT_TRUE(refused) << name << part;
      EXPECT_EQ(refused->error.code, Code::unsupported);
    }
  }
}

TEST(EventStream, ChecksumsAndLengthsAreHeld) {
  EXPECT_EQ(crc32("123456789"), 0xCBF43926u);  // the check value of the polynomial
  const std::string whole = write_stream_message({{":event-type", "x"}}, "payload");
  for (std::size_t cut = 0; cut <= whole.size(); ++cut) {
    EventStreamReader reader;
    int seen = 0;
    const auto count = [&](StreamMessage&& message) {
      EXPECT_EQ(message.payload, "payload");
      EXPECT_EQ(message.header(":event-type"), "x");
      ++seen;
    };
    ASSERT_TRUE(reader.read(whole.substr(0, cut), count));
    ASSERT_TRUE(reader.read(whole.substr(cut), count));
    EXPECT_EQ(seen, 1);
    EXPECT_TRUE(reader.at_boundary());
  }
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] ^= 1;
    EventStreamReader reader;
    EXPECT_FALSE(reader.read(flipped, [](StreamMessage&&) { ADD_FAILURE() << "it was read"; })) << i;
  }
}

}  // namespace
}  // namespace ashlar::gateway
