// /v1/embeddings and /v1/rerank over a reader that says what a test wrote for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "api/fakes_for_test.h"

namespace ashlar::api {
namespace {

using testing::HasSubstr;

// Each text's vector is (length of the text, 0.5); each document's score its length.
class FakeReader final : public engine::Embedder, public engine::Reranker {
 public:
  void embed(engine::EmbedRequest request, engine::Embedder::Done done) override {
    embeds.push_back(request);
    if (refusal) return done(std::unexpected(*refusal));
    engine::Embeddings answer{
        .dimensions = request.dimensions == 0 ? 2 : request.dimensions, .prompt_tokens = 5, .asked = asked};
    for (const engine::TextOrIds& input : request.inputs) {
      const auto size = std::visit([](const auto& text) { return text.size(); }, input);
      answer.values.push_back(static_cast<float>(size));
      if (answer.dimensions == 2) answer.values.push_back(0.5F);
    }
    std::jthread([&] { done(std::move(answer)); });
  }
  void rerank(engine::RerankRequest request, engine::Reranker::Done done) override {
    reranks.push_back(request);
    if (refusal) return done(std::unexpected(*refusal));
    engine::Ranking answer{.scores = {}, .prompt_tokens = 9, .cut = cut, .asked = asked};
    for (const std::string& document : request.documents)
      answer.scores.push_back(static_cast<float>(document.size()) / 8);
    std::jthread([&] { done(std::move(answer)); });
  }

  std::optional<engine::Generator::Refusal> refusal;
  std::vector<engine::EmbedRequest> embeds;
  std::vector<engine::RerankRequest> reranks;
  int cut = 0;
  std::optional<engine::Clock::time_point> asked;
};

// "vectors" embeds, "ranker" ranks, and "chat" does neither.
class Models final : public engine::Generator {
 public:
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request, engine::Sink&) override {
    return std::unexpected(Refusal{.error = {Code::unsupported, "this model does not generate text"}});
  }
  std::vector<engine::ModelCard> models() const override {
    return {{.id = "vectors", .vocabulary = 100, .generates = false, .embedding = 2},
            {.id = "ranker", .vocabulary = 100, .generates = false, .ranks = true},
            {.id = "chat", .vocabulary = 100}};
  }
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt&, bool) const override {
    return engine::Tokenized{};
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>&) const override { return ""; }
  Result<std::string> render(const std::string&, const engine::Chat&) const override { return ""; }
  Load load() const override { return {}; }
};

struct ReadersWorld {
  FakeReader reader;
  Models models;
  std::unique_ptr<Api> api = *Api::create({}, "127.0.0.1");

  ReadersWorld() { api->serve(models, &reader, &reader); }
  std::shared_ptr<RecordingExchange> ask(std::string path, std::string body) {
    auto exchange = std::make_shared<RecordingExchange>(
        net::HttpRequest{.method = "POST", .path = std::move(path), .body = std::move(body)});
    api->handler()(exchange);
    exchange->wait_ended();
    return exchange;
  }
  std::shared_ptr<RecordingExchange> embed(std::string members) {
    return ask("/v1/embeddings", R"({"model":"vectors",)" + members + "}");
  }
  std::shared_ptr<RecordingExchange> rank(std::string members) {
    return ask("/v1/rerank", R"({"model":"ranker",)" + members + "}");
  }
};

TEST(Embeddings, TakeEveryFormOfInput) {
  ReadersWorld world;
  const auto one = world.embed(R"("input":"abc")");
  EXPECT_EQ(one->status(), 200);
  EXPECT_EQ(one->json(), Json::parse(R"({"object":"list","data":[{"object":"embedding","index":0,
    "embedding":[3.0,0.5]}],"model":"vectors","usage":{"prompt_tokens":5,"total_tokens":5}})"));
  EXPECT_EQ(world.embed(R"("input":["abc","d"])")->json()["data"][1]["index"], 1);
  EXPECT_EQ(world.embed(R"("input":[1,2,3])")->json()["data"].size(), 1u);
  EXPECT_EQ(world.embed(R"("input":[[1,2],[3]],"user":"u")")->json()["data"][0]["embedding"][0], 2);
  EXPECT_EQ(std::get<std::vector<std::int32_t>>(world.reader.embeds.back().inputs[0]),
            (std::vector<std::int32_t>{1, 2}));
}

TEST(Embeddings, AreFloatsOrBase64) {
  ReadersWorld world;
  // 3.0 and 0.5 as little-endian f32.
  EXPECT_EQ(world.embed(R"("input":"abc","encoding_format":"base64")")->json()["data"][0]["embedding"], "AABAQAAAAD8=");
  EXPECT_EQ(world.embed(R"("input":"abc","encoding_format":"base64","dimensions":1)")->json()["data"][0]["embedding"],
            "AABAQA==");
  EXPECT_EQ(world.embed(R"("input":"abc","encoding_format":"int8")")->json()["error"]["param"], "encoding_format");
}

TEST(Embeddings, RefuseWhatIsWrong) {
  ReadersWorld world;
  const auto param = [&](std::string members) {
    const auto answer = world.embed(std::move(members));
    EXPECT_EQ(answer->status(), 400) << answer->body();
    return answer->json()["error"]["param"];
  };
  EXPECT_EQ(param(R"("encoding_format":"float")"), "input");
  for (const char* input : {R"("")", "[]", R"(["a",""])", R"(["a",1])", "[[]]", "[100]", "[-1]", "7", R"({"a":1})"})
    EXPECT_EQ(param(std::string(R"("input":)") + input), "input") << input;
  EXPECT_EQ(param(R"("input":"a","dimensions":0)"), "dimensions");
  EXPECT_EQ(param(R"("input":"a","dimensions":3)"), "dimensions");
  EXPECT_EQ(param(R"("input":"a","truncate_prompt_tokens":0)"), "truncate_prompt_tokens");
  std::string many = R"("input":["a")";
  for (int i = 0; i < 2048; ++i) many += R"(,"a")";
  EXPECT_EQ(param(many + "]"), "input");
  EXPECT_TRUE(world.reader.embeds.empty());
  EXPECT_EQ(world.ask("/v1/embeddings", R"({"model":"ranker","input":"a"})")->status(), 400);
  EXPECT_EQ(world.ask("/v1/embeddings", R"({"model":"chat","input":"a"})")->json()["error"]["param"], "model");
  EXPECT_EQ(world.ask("/v1/embeddings", R"({"model":"none","input":"a"})")->status(), 404);
}

// A route is listed as other servers' models are, and has no embedder.
TEST(Embeddings, OfARouteAreRefusedAsWhatItLacksNotAsAModelThatIsNotThere) {
  ReadersWorld world;
  world.reader.refusal = {.error = {Code::not_found, "the model 'vectors' does not exist"}};
  const auto answer = world.embed(R"("input":"a")");
  EXPECT_EQ(answer->status(), 400);
  EXPECT_THAT(answer->json()["error"]["message"].get<std::string>(),
              HasSubstr("gives no embeddings: a route is for text"));
}

TEST(Embeddings, SayWhyTheReaderRefused) {
  ReadersWorld world;
  world.reader.refusal = {.error = {Code::invalid, "input 0 is long"}, .over_context = true};
  const auto longer = world.embed(R"("input":"a")");
  EXPECT_EQ(longer->status(), 400);
  EXPECT_EQ(longer->json()["error"]["code"], "context_length_exceeded");
  world.reader.refusal = {.error = {Code::exhausted, "full"}, .retry_after = std::chrono::milliseconds(1500)};
  const auto full = world.embed(R"("input":"a")");
  EXPECT_EQ(full->status(), 429);
  EXPECT_EQ(full->header("retry-after"), "2");
}

TEST(Readers, TheHeadTellsWhatTheAnswerTookBesideTheModel) {
  ReadersWorld world;
  world.reader.asked = engine::Clock::now() + std::chrono::hours(1);
  for (const auto& answer : {world.embed(R"("input":"a")"), world.rank(R"("query":"q","documents":["a"])")})
    EXPECT_GE(std::stod(answer->header("x-ashlar-overhead-ms")), 3'000'000) << answer->body();
  for (const auto& wrong : {world.embed(R"("input":7)"), world.ask("/v1/rerank", "{")})
    EXPECT_LT(std::stod(wrong->header("x-ashlar-overhead-ms")), 3'000'000) << wrong->body();
}

TEST(Embeddings, PassOnWhatWasAsked) {
  ReadersWorld world;
  world.embed(R"("input":"a","dimensions":1,"truncate_prompt_tokens":-1)");
  EXPECT_EQ(world.reader.embeds.back().dimensions, 1);
  EXPECT_EQ(world.reader.embeds.back().truncate, 0);
  world.embed(R"("input":"a","truncate_prompt_tokens":7,"keep_alive":0)");
  EXPECT_EQ(world.reader.embeds.back().keep_alive, std::chrono::milliseconds(0));
  EXPECT_EQ(world.reader.embeds.back().truncate, 7);
  world.embed(R"("input":"a")");
  EXPECT_EQ(world.reader.embeds.back().truncate, -1);
}

TEST(Rerank, SortsByScoreAndShowsTheDocuments) {
  ReadersWorld world;
  const auto answer = world.rank(R"("query":"q","documents":["aa",{"text":"bbbb","title":"t"},"c","dd"],"top_n":3)");
  ASSERT_EQ(answer->status(), 200) << answer->body();
  const Json json = answer->json();
  ASSERT_EQ(json["results"].size(), 3u);
  EXPECT_EQ(json["results"][0], Json::parse(R"({"index":1,"relevance_score":0.5,"document":{"text":"bbbb"}})"));
  EXPECT_EQ(json["results"][1]["index"], 0);
  EXPECT_EQ(json["results"][2]["index"], 3);
  EXPECT_EQ(json["usage"]["total_tokens"], 9);
  EXPECT_EQ(json["model"], "ranker");
  EXPECT_THAT(json["id"].get<std::string>(), HasSubstr("rerank-"));
  EXPECT_FALSE(world.rank(R"("query":"q","documents":["a"],"return_documents":false)")
                   ->json()["results"][0]
                   .contains("document"));
  for (const char* path : {"/rerank", "/v2/rerank", "/v1/reranking"})
    EXPECT_EQ(world.ask(path, R"({"model":"ranker","query":"q","documents":["a"],"top_n":9})")->status(), 200);
}

TEST(Rerank, RefusesWhatIsWrong) {
  ReadersWorld world;
  const auto param = [&](std::string members) {
    const auto answer = world.rank(std::move(members));
    EXPECT_EQ(answer->status(), 400) << answer->body();
    return answer->json()["error"]["param"];
  };
  EXPECT_EQ(param(R"("documents":["a"])"), "query");
  EXPECT_EQ(param(R"("query":"q")"), "documents");
  for (const char* documents : {"[]", "[1]", R"([{"title":"a"}])", R"("a")", R"([["a"]])"})
    EXPECT_EQ(param(std::string(R"("query":"q","documents":)") + documents), "documents") << documents;
  EXPECT_EQ(param(R"("query":"q","documents":["a"],"top_n":0)"), "top_n");
  EXPECT_EQ(param(R"("query":["q"],"documents":["a"])"), "query");
  EXPECT_EQ(world.ask("/v1/rerank", R"({"model":"vectors","query":"q","documents":["a"]})")->status(), 400);
  world.reader.refusal = {.error = {Code::invalid, "too long"}, .over_context = true};
  EXPECT_EQ(param(R"("query":"q","documents":["a"])"), "documents");
}

TEST(Rerank, CutsWhatIsTooLongUnlessToldOtherwiseAndSaysSo) {
  ReadersWorld world;
  const auto cut = [&](std::string members) {
    world.rank(R"("query":"q","documents":["a"])" + std::move(members));
    return world.reader.reranks.back().truncate;
  };
  EXPECT_EQ(cut(""), 0);
  EXPECT_EQ(cut(R"(,"truncate":true)"), 0);
  EXPECT_EQ(cut(R"(,"truncate":"END")"), 0);
  EXPECT_EQ(cut(R"(,"truncate":false)"), -1);
  EXPECT_EQ(cut(R"(,"truncate":"NONE")"), -1);
  EXPECT_EQ(cut(R"(,"truncate":false,"truncate_prompt_tokens":9)"), 9);
  EXPECT_EQ(world.rank(R"("query":"q","documents":["a"],"truncate":"START")")->status(), 400);
  EXPECT_FALSE(world.rank(R"("query":"q","documents":["a"])")->json()["meta"].contains("warnings"));
  world.reader.cut = 1;
  EXPECT_EQ(world.rank(R"("query":"q","documents":["a"])")->json()["meta"]["warnings"].size(), 1u);
}

TEST(Rerank, PassesOnWhatWasAsked) {
  ReadersWorld world;
  world.rank(
      R"("query":"q","documents":["a"],"max_tokens_per_doc":12,"raw_scores":true,"truncate_prompt_tokens":20,"keep_alive":"5m")");
  EXPECT_EQ(world.reader.reranks.back().keep_alive, std::chrono::minutes(5));
  EXPECT_EQ(world.reader.reranks.back().document_tokens, 12);
  EXPECT_EQ(world.reader.reranks.back().truncate, 20);
  EXPECT_TRUE(world.reader.reranks.back().raw_scores);
}

TEST(Readers, AreListedAndDoNotGenerate) {
  ReadersWorld world;
  auto list = std::make_shared<RecordingExchange>(net::HttpRequest{.method = "GET", .path = "/v1/models"});
  world.api->handler()(list);
  list->wait_ended();
  EXPECT_EQ(list->json()["data"][0]["meta"]["n_embd"], 2);
  EXPECT_EQ(list->json()["data"][0]["meta"]["generates"], false);
  EXPECT_EQ(list->json()["data"][1]["meta"]["ranks"], true);
  EXPECT_EQ(world.ask("/v1/completions", R"({"model":"vectors","prompt":"a"})")->status(), 400);
}

}  // namespace
}  // namespace ashlar::api
