// POST /v1/rerank, as Cohere, Jina and vLLM have it.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>

#include "api/generation.h"
#include "api/readers.h"
#include "base/json_full.h"

namespace ashlar::api {
namespace {

constexpr std::size_t kMaxDocuments = 4096;  // of one request

// Strings, or objects with a text.
Outcome<std::vector<std::string>> read_documents(Fields& fields) {
  const Json* documents = fields.read_array("documents");
  TRY(fields.done());
  if (documents == nullptr) return bad("documents", "'documents' is missing: send an array of texts");
  if (documents->empty()) return bad("documents", "'documents' is empty");
  if (documents->size() > kMaxDocuments)
    return bad("documents",
               fmt::format("'documents' has {} documents; at most {} are allowed", documents->size(), kMaxDocuments));
  std::vector<std::string> out;
  for (const Json& document : *documents) {
    const Json* text = &document;
    if (document.is_object() && document.contains("text")) text = &document["text"];
    if (!text->is_string())
      return bad("documents",
                 fmt::format("'documents' should hold strings, or objects with a \"text\", not {}", kind(*text)));
    out.push_back(text->get<std::string>());
  }
  return out;
}

struct RankReply {
  std::string model;
  std::size_t top = 0;
  std::vector<std::string> documents;  // to be shown; empty: not
};

std::string ranking_json(const RankReply& reply, const engine::Ranking& ranking) {
  std::vector<std::size_t> order(ranking.scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return ranking.scores[a] != ranking.scores[b] ? ranking.scores[a] > ranking.scores[b] : a < b;
  });
  order.resize(std::min(order.size(), reply.top));
  std::string model;
  append_json_string(model, reply.model);
  std::string out = fmt::format(R"({{"id":"rerank-{}","object":"list","model":{},"results":[)", random_hex(24), model);
  for (const std::size_t i : order) {
    fmt::format_to(std::back_inserter(out), R"({}{{"index":{},"relevance_score":{})", i == order.front() ? "" : ",", i,
                   ranking.scores[i]);
    if (!reply.documents.empty()) {
      out.append(R"(,"document":{"text":)");
      append_json_string(out, reply.documents[i]);
      out.push_back('}');
    }
    out.push_back('}');
  }
  fmt::format_to(std::back_inserter(out),
                 R"(],"usage":{{"prompt_tokens":{},"total_tokens":{}}},"meta":{{"api_version":{{"version":"1"}},)"
                 R"("billed_units":{{"search_units":1}},"tokens":{{"input_tokens":{},"output_tokens":0}})",
                 ranking.prompt_tokens, ranking.prompt_tokens, ranking.prompt_tokens);
  if (ranking.cut > 0)
    fmt::format_to(std::back_inserter(out),
                   R"(,"warnings":["{} of the documents, with the query, were longer than the )"
                   R"(model reads, and were cut"])",
                   ranking.cut);
  out.append("}}");
  return out;
}

}  // namespace

Outcome<void> rerank(Call& call) {
  const auto arrived = engine::Clock::now();
  const engine::Generator& generator = *TRY(call.generator());
  const Json body = TRY(parse_body(call.request()));
  Fields fields(body);
  const auto model = TRY(find_model(call, generator, fields));
  engine::Reranker* reranker = call.shared.reranker;
  if (!model.ranks || reranker == nullptr)
    return Fault({Code::unsupported, fmt::format("the model '{}' is not a reranker", model.id)}, "model");

  auto request = TRY(begin_reading<engine::RerankRequest>(call, model, fields));
  int top = 0;
  bool show = true;
  fields.read("query", request.query, std::string::npos);
  fields.read("top_n", top, {1});
  fields.read("return_documents", show);
  fields.read("max_tokens_per_doc", request.document_tokens, {1});
  fields.read("raw_scores", request.raw_scores);
  // As other servers of rerankers do; the answer says it.
  if (!fields.has("truncate") && !fields.has("truncate_prompt_tokens")) request.truncate = 0;
  TRY(fields.done());
  if (request.query.empty()) return bad("query", "'query' is missing: send the text to rank the documents by");
  request.documents = TRY(read_documents(fields));
  RankReply reply{.model = model.id, .top = top == 0 ? request.documents.size() : static_cast<std::size_t>(top)};
  if (show) reply.documents = request.documents;
  const ReadingReply way(call, request, arrived);
  reranker->rerank(std::move(request), [way, reply = std::move(reply)](auto answer) {
    if (!answer) return way.refuse(std::move(answer).error(), "documents");
    const auto told = engine::Clock::now();
    way.respond(ranking_json(reply, *answer), answer->asked, told);
  });
  return {};
}

}  // namespace ashlar::api
