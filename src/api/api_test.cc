#include "api/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <regex>

#include "api/fakes_for_test.h"
#include "api/keys.h"
#include "api/routes.h"

namespace ashlar::api {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

const ApiOptions kKeyed{.api_key = {"sk-one", "sk-two"}};

TEST(Api, UnknownPathIs404AndWrongMethod405) {
  World world;
  const auto unknown = world.ask("GET", "/v2/nothing");
  EXPECT_EQ(unknown->status(), 404);
  EXPECT_EQ(unknown->json()["error"]["code"], "unknown_url");
  const auto wrong = world.ask("GET", "/v1/chat/completions");
  EXPECT_EQ(wrong->status(), 405);
  EXPECT_EQ(wrong->header("allow"), "POST");
  EXPECT_EQ(world.ask("DELETE", "/v1/models")->header("allow"), "GET, HEAD");
  EXPECT_EQ(world.ask("HEAD", "/health")->status(), 200);
  EXPECT_EQ(world.ask("GET", "/v1/models/")->status(), 404);
}

TEST(Api, EveryRouteNeedsTheKeyButTheOpenOnes) {
  World world(kKeyed);
  const std::set<std::string_view> open = {"/health", "/v1/health", "/ping", "/version", "/"};
  for (const Route& route : routes()) {
    const std::string path = route.path.ends_with('*') ? std::string(route.path.substr(0, route.path.size() - 1)) + "x"
                                                       : std::string(route.path);
    EXPECT_EQ(world.ask(std::string(route.method), path)->status() != 401, open.contains(route.path)) << route.path;
    EXPECT_NE(world.ask(std::string(route.method), path, "{}", {{"authorization", "Bearer sk-two"}})->status(), 401)
        << route.path;
  }
  EXPECT_EQ(world.ask("GET", "/nowhere")->status(), 401);
}

TEST(Api, ClientsLoadAdaptersFromTheServersFolderAlone) {
  const auto status = [](const ApiOptions& options, const std::string& path) {
    World world(options);
    return world
        .ask("POST", "/v1/load_lora_adapter", R"({"lora_name":"a","lora_path":")" + path + "\"}",
             {{"authorization", "Bearer sk-one"}})
        ->status();
  };
  constexpr int kAsked = 400;  // the generator was: it takes no adapters
  EXPECT_EQ(status({}, "/anywhere/a"), kAsked);
  EXPECT_EQ(status(kKeyed, "/anywhere/a"), 403);
  for (ApiOptions options : {ApiOptions{}, kKeyed}) {
    options.adapter_folder = "/srv/adapters";
    EXPECT_EQ(status(options, "/srv/adapters/a"), kAsked);
    EXPECT_EQ(status(options, "deeper/a"), kAsked);
    for (const char* outside : {"/anywhere/a", "../a", "/srv/adapters/../a", "/srv/adapters-too/a", "/"})
      EXPECT_EQ(status(options, outside), 403) << outside;
  }
}

TEST(Api, TakesTheKeyInEitherHeader) {
  World world(kKeyed);
  const auto status = [&](const char* name, const char* value) {
    return world.ask("GET", "/v1/models", "", {{name, value}})->status();
  };
  EXPECT_EQ(status("authorization", "Bearer sk-one"), 200);
  EXPECT_EQ(status("authorization", "bearer  sk-two "), 200);
  EXPECT_EQ(status("x-api-key", "sk-two"), 200);
  for (const char* wrong : {"", "sk-one", "Bearer", "Bearer ", "Bearer sk-on", "Bearer sk-onee", "Basic sk-one"})
    EXPECT_EQ(status("authorization", wrong), 401) << wrong;
  const auto refused = world.ask("GET", "/v1/models");
  EXPECT_EQ(refused->json()["error"]["type"], "authentication_error");
  EXPECT_EQ(refused->json()["error"]["code"], "invalid_api_key");
  EXPECT_EQ(refused->header("www-authenticate"), "Bearer");
}

TEST(Api, KeysAreTenants) {
  World world(kKeyed);
  const auto tenant = [&](const char* key) {
    world.ask("POST", "/v1/completions", R"({"prompt":"a"})", {{"x-api-key", key}});
    return world.generator.seen().back().tenant;
  };
  EXPECT_THAT(tenant("sk-one"), MatchesRegex("key-[0-9a-f]{16}"));
  EXPECT_NE(tenant("sk-one"), tenant("sk-two"));
  World open;
  open.complete(R"({"prompt":"a"})");
  EXPECT_EQ(open.generator.seen().back().tenant, "");
}

TEST(Api, EchoesAPlainRequestIdAndReplacesOthers) {
  World world;
  EXPECT_EQ(world.ask("GET", "/health", "", {{"x-request-id", "abc-1.2:3"}})->header("x-request-id"), "abc-1.2:3");
  for (const std::string& odd : {std::string("a b"), std::string("a\r\nx: y"), std::string(129, 'a'), std::string()})
    EXPECT_THAT(world.ask("GET", "/health", "", {{"x-request-id", odd}})->header("x-request-id"),
                MatchesRegex("req-[0-9a-f]{24}"));
}

TEST(Api, OnlyAClientsOwnRequestIdGoesWithItsRequest) {
  World world;
  world.ask("POST", "/v1/completions", R"({"prompt":"a"})", {{"x-request-id", "mine"}});
  world.ask("POST", "/v1/completions", R"({"prompt":"a"})", {{"x-request-id", "not plain"}});
  EXPECT_EQ(world.generator.seen().at(0).sender.request_id, "mine");
  EXPECT_EQ(world.generator.seen().at(1).sender.request_id, "");
}

TEST(Api, IsUnavailableWhileLoadingAndDraining) {
  World world;
  const auto api = *Api::create({}, "localhost");
  const auto ask = [&](const char* method, const char* path) {
    auto exchange = std::make_shared<RecordingExchange>(
        net::HttpRequest{.method = method, .path = path, .body = R"({"prompt":"a"})"});
    api->handler()(exchange);
    exchange->wait_ended();
    return exchange;
  };
  EXPECT_EQ(ask("GET", "/health")->status(), 503);
  EXPECT_EQ(ask("GET", "/health")->body(),
            R"({"error":{"code":503,"message":"Loading model","type":"unavailable_error"}})");
  EXPECT_EQ(ask("POST", "/v1/completions")->status(), 503);
  EXPECT_EQ(ask("POST", "/v1/completions")->header("retry-after"), "1");
  EXPECT_EQ(ask("GET", "/version")->status(), 200);
  api->serve(world.generator);
  EXPECT_EQ(ask("GET", "/health")->body(), R"({"status":"ok"})");
  EXPECT_EQ(ask("POST", "/v1/completions")->status(), 200);
  api->drain();
  EXPECT_EQ(ask("GET", "/health")->status(), 503);
  EXPECT_EQ(ask("POST", "/v1/completions")->status(), 503);
  EXPECT_EQ(ask("GET", "/metrics")->status(), 200);
}

TEST(Api, HealthFollowsTheEngine) {
  World world;
  EXPECT_EQ(world.ask("GET", "/ping")->status(), 200);
  world.generator.healthy = false;
  EXPECT_EQ(world.ask("GET", "/v1/health")->status(), 503);
}

TEST(Api, ShowsWhatAPrefixCacheHas) {
  struct Fixed final : engine::CachedPrefixes {
    int cached(std::span<const std::uint64_t>) const override { return 0; }
    std::size_t size() const override { return 2; }
    News news(std::uint64_t book, std::uint64_t sequence, std::size_t most) const override {
      EXPECT_GT(most, 1000U);
      return {.book = book + 1, .sequence = sequence + 2, .whole = false, .changes = {{255, 16}, {1, 0}}};
    }
  };
  World world;
  EXPECT_EQ(world.ask("GET", "/v1/cache/prefixes/tiny")->json()["error"]["code"], "unsupported");
  world.generator.cache = std::make_shared<Fixed>();
  EXPECT_EQ(world.ask("GET", "/v1/cache/prefixes/tiny")->json(), Json::parse(R"({"model":"tiny",
      "book":"0000000000000001","sequence":2,"whole":false,"cut":false,"keys":"00000000000000ff0000000000000001",
      "tokens":[16,0]})"));
  EXPECT_EQ(world.ask("GET", "/v1/cache/prefixes/other")->status(), 404);
}

TEST(Api, ShowsModelsWithTheirContext) {
  World world;
  const Json list = world.ask("GET", "/v1/models")->json();
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "tiny");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(list["data"][0]["max_model_len"], 64);
  EXPECT_EQ(list["data"][0]["meta"]["n_vocab"], 256);
  EXPECT_EQ(world.ask("GET", "/v1/models/tiny")->json(), list["data"][0]);
  const auto unknown = world.ask("GET", "/v1/models/org/none");
  EXPECT_EQ(unknown->status(), 404);
  EXPECT_EQ(unknown->json()["error"]["code"], "model_not_found");
  EXPECT_THAT(unknown->body(), HasSubstr("'org/none'"));
}

TEST(Api, TokenizesInBothShapes) {
  World world;
  EXPECT_EQ(world.ask("POST", "/tokenize", R"({"model":"tiny","prompt":"ab"})")->body(),
            R"({"count":2,"max_model_len":64,"tokens":[97,98],"token_strs":null})");
  EXPECT_EQ(world.ask("POST", "/tokenize", R"({"prompt":"ab","return_token_strs":true})")->json()["token_strs"].dump(),
            R"(["a","b"])");
  EXPECT_EQ(world.ask("POST", "/tokenize", R"({"messages":[{"role":"user","content":"x"}]})")->json()["count"], 10);
  EXPECT_EQ(world.ask("POST", "/tokenize", R"({"content":"ab"})")->body(), R"({"tokens":[97,98]})");
  EXPECT_EQ(world.ask("POST", "/tokenize", R"({"content":"","with_pieces":true})")->body(), R"({"tokens":[]})");
  EXPECT_EQ(world.ask("POST", "/tokenize", R"({"content":"aé","with_pieces":true})")->status(), 200);
  for (const char* wrong :
       {"{}", R"({"prompt":1})", R"({"content":[]})", R"({"messages":[]})", R"({"prompt":"a","add_special_tokens":1})"})
    EXPECT_EQ(world.ask("POST", "/tokenize", wrong)->status(), 400) << wrong;
}

TEST(Api, AModelThatIsStillToComeHoldsNobodyUp) {
  World world;
  for (const bool comes : {true, false}) {
    world.generator.away = true;
    const auto tokens = world.send("POST", "/tokenize", R"({"content":"ab"})");
    const auto text = world.send("POST", "/detokenize", R"({"tokens":[97,98]})");
    const auto prompt = world.send("POST", "/apply-template", R"({"messages":[{"role":"user","content":"x"}]})");
    const auto answer = world.send("POST", "/v1/completions", R"({"prompt":"ab","return_token_ids":true})");
    EXPECT_EQ(world.ask("POST", "/tokenize", R"({"content":1})")->status(), 400);
    EXPECT_EQ(world.ask("GET", "/health")->status(), 200);
    for (const auto& exchange : {tokens, text, prompt, answer}) EXPECT_EQ(exchange->status(), 0);
    if (!comes) {
      world.generator.come_back(Error{Code::exhausted, "no memory"});
      for (const auto& exchange : {tokens, text, prompt, answer})
        EXPECT_EQ(exchange->status(), 429) << exchange->body();
      continue;
    }
    world.generator.come_back(&world.generator);
    EXPECT_EQ(tokens->body(), R"({"tokens":[97,98]})");
    EXPECT_EQ(text->json()["content"], "ab");
    EXPECT_EQ(prompt->json()["prompt"], "<user>x");
    answer->wait_ended();
    EXPECT_EQ(answer->json()["choices"][0]["prompt_token_ids"].dump(), "[97,98]");
  }
}

TEST(Api, DetokenizesForBothClients) {
  World world;
  EXPECT_EQ(world.ask("POST", "/detokenize", R"({"tokens":[97,98]})")->body(), R"({"prompt":"ab","content":"ab"})");
  EXPECT_EQ(world.ask("POST", "/detokenize", R"({"tokens":[]})")->status(), 200);
  for (const char* wrong :
       {"{}", R"({"tokens":"a"})", R"({"tokens":[300]})", R"({"tokens":[-1]})", R"({"tokens":[[1]]})"})
    EXPECT_EQ(world.ask("POST", "/detokenize", wrong)->json()["error"]["param"], "tokens") << wrong;
}

TEST(Api, RendersAConversation) {
  World world;
  EXPECT_EQ(world.ask("POST", "/apply-template", R"({"messages":[{"role":"user","content":"x"}]})")->body(),
            R"({"prompt":"<user>x"})");
}

TEST(Api, CountsRequestsByRouteAndStatus) {
  World world;
  world.ask("GET", "/v1/models/one");
  world.ask("BREW", "/v1/models/two");
  const auto answer = world.ask("GET", "/metrics");
  EXPECT_EQ(answer->header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_THAT(answer->body(),
              HasSubstr(R"(ashlar_http_requests_total{handler="/v1/models/*",method="GET",status="404"})"));
  EXPECT_THAT(answer->body(), HasSubstr(R"(ashlar_http_requests_total{handler="other",method="other",status="405"})"));
  EXPECT_THAT(
      answer->body(),
      HasSubstr(R"(ashlar_http_request_duration_seconds_bucket{handler="/v1/models/*",method="GET",le="+Inf"})"));
}

TEST(Api, CountsAClientThatLeft) {
  World world;
  world.generator.hold = true;
  world.send("POST", "/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}]})")->leave();
  world.generator.wait_cancelled(1);
  EXPECT_THAT(world.ask("GET", "/metrics")->body(),
              HasSubstr(R"(handler="/v1/chat/completions",method="POST",status="499"})"));
}

TEST(Api, ShowsItsLoad) {
  World world;
  const Json json = world.ask("GET", "/api/status")->json();
  EXPECT_EQ(json["running"], 2);
  EXPECT_EQ(json["waiting"], 1);
  EXPECT_EQ(json["kv_used"], 0.5);
}

TEST(Api, BrowsersNeedAnAllowedOrigin) {
  World world;
  const auto status = [](World& to, const char* name, const char* value) {
    return to.ask("GET", "/v1/models", "", {{name, value}})->status();
  };
  EXPECT_EQ(status(world, "origin", "http://evil.example"), 403);
  EXPECT_EQ(status(world, "origin", "null"), 403);
  EXPECT_EQ(status(world, "origin", "http://localhost:3000"), 200);
  EXPECT_EQ(status(world, "origin", "http://[::1]:3000"), 200);
  EXPECT_EQ(status(world, "host", "evil.example:8080"), 403);
  EXPECT_EQ(status(world, "host", "127.0.0.1.evil.example"), 403);
  EXPECT_EQ(status(world, "host", "127.0.0.1:8080"), 200);
  EXPECT_EQ(status(world, "host", "[::1]:8080"), 200);
  World shared({.cors_origin = "https://app.example"});
  EXPECT_EQ(status(shared, "origin", "https://app.example"), 200);
  EXPECT_EQ(status(shared, "origin", "https://other.example"), 403);
}

TEST(Api, CorsIsOffUntilAsked) {
  World off;
  EXPECT_EQ(off.ask("GET", "/health", "", {{"origin", "http://localhost:1"}})->header("access-control-allow-origin"),
            "");
  EXPECT_EQ(off.ask("OPTIONS", "/v1/models")->header("allow"), "GET, HEAD, OPTIONS");
  EXPECT_EQ(off.ask("OPTIONS", "/v1/models")->header("access-control-allow-methods"), "");

  ApiOptions options = kKeyed;
  options.cors_origin = "*";
  World on(options);
  const auto asked =
      on.ask("OPTIONS", "/v1/chat/completions", "",
             {{"origin", "https://a.example"}, {"access-control-request-headers", "authorization,x-stainless-os"}});
  EXPECT_EQ(asked->status(), 204);
  EXPECT_EQ(asked->header("access-control-allow-origin"), "*");
  EXPECT_EQ(asked->header("access-control-allow-methods"), "POST, OPTIONS");
  EXPECT_NE(asked->header("access-control-expose-headers").find("x-should-retry"), std::string::npos);
  EXPECT_EQ(asked->header("access-control-allow-headers"), "authorization,x-stainless-os");
  EXPECT_EQ(on.ask("GET", "/v1/models", "", {{"origin", "https://a.example"}})->header("access-control-allow-origin"),
            "*");
}

TEST(Api, ThePageRunsItsOwnScriptAlone) {
  World world(kKeyed);
  const auto answer = world.ask("GET", "/");
  EXPECT_EQ(answer->header("content-type"), "text/html; charset=utf-8");
  EXPECT_THAT(answer->header("content-security-policy"), HasSubstr("default-src 'none'; script-src 'sha256-"));
  const std::string text = answer->body();
  const std::regex outside(
      R"((src|href)\s*=(?!"data:)|https?://(?!www\.w3\.org)|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\son[a-z]+=|style=)");
  std::smatch found;
  EXPECT_FALSE(std::regex_search(text, found, outside)) << found.str();
}

TEST(Keys, WithoutOneOnlyLoopbackIsAllowed) {
  for (const char* host : {"127.0.0.1", "127.8.9.1", "localhost", "::1"})
    EXPECT_TRUE(check_exposure(host, false)) << host;
  for (const char* host : {"0.0.0.0", "::", "", "192.168.0.1", "127.evil.example", "example.com"}) {
    EXPECT_TRUE(check_exposure(host, true)) << host;
    const auto refused = check_exposure(host, false);
    ASSERT_FALSE(refused) << host;
    EXPECT_THAT(refused.error().message, HasSubstr("--api-key"));
  }
  EXPECT_FALSE(Api::create({}, "0.0.0.0"));
  EXPECT_TRUE(Api::create(kKeyed, "0.0.0.0"));
}

TEST(Keys, AreReadFromAFileWithComments) {
  const std::string path = testing::TempDir() + "ashlar_keys_test";
  std::ofstream(path) << "# keys of today\n\nsk-a  # for a\r\n  sk-b\n";
  const auto keys = Keys::create({}, path);
  ASSERT_TRUE(keys);
  EXPECT_TRUE(keys->authenticate({{"x-api-key", "sk-a"}}));
  EXPECT_TRUE(keys->authenticate({{"x-api-key", "sk-b"}}));
  EXPECT_FALSE(keys->authenticate({{"x-api-key", "#"}}));
  std::ofstream(path) << "# none\n";
  EXPECT_THAT(Keys::create({}, path).error().message, HasSubstr("holds no key"));
  std::ofstream(path) << "good\nwith blank\n";
  EXPECT_THAT(Keys::create({}, path).error().message, HasSubstr(":2:"));
  std::remove(path.c_str());
  EXPECT_THAT(Keys::create({}, path).error().message, HasSubstr("cannot be read"));
  EXPECT_FALSE(Keys::create({""}, ""));
  EXPECT_FALSE(Keys::create({std::string(600, 'k')}, ""));
}

}  // namespace
}  // namespace ashlar::api
