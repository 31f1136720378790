#include "api/public_operations.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "base/json_full.h"

namespace ashlar::api {
namespace {

// The members that most requests have; further ones are in docs/api.md.
constexpr std::string_view kChat = R"({"type":"object","required":["messages"],"properties":{
  "model":{"type":"string"},
  "messages":{"type":"array","items":{"type":"object","required":["role"],"properties":{
    "role":{"type":"string"},"content":{"type":["string","array","null"]}}}},
  "max_tokens":{"type":"integer"},"temperature":{"type":"number"},"top_p":{"type":"number"},"n":{"type":"integer"},
  "stop":{"type":["string","array"]},"stream":{"type":"boolean"},"tools":{"type":"array","items":{"type":"object"}},
  "response_format":{"type":"object"}}})";
constexpr std::string_view kCompletion = R"({"type":"object","required":["prompt"],"properties":{
  "model":{"type":"string"},"prompt":{"type":["string","array"]},"max_tokens":{"type":"integer"},
  "temperature":{"type":"number"},"n":{"type":"integer"},"stream":{"type":"boolean"},"echo":{"type":"boolean"}}})";
constexpr std::string_view kEmbeddings = R"({"type":"object","required":["input"],"properties":{
  "model":{"type":"string"},"input":{"type":["string","array"]},"dimensions":{"type":"integer"},
  "encoding_format":{"type":"string","enum":["float","base64"]}}})";
constexpr std::string_view kRerank = R"({"type":"object","required":["query","documents"],"properties":{
  "model":{"type":"string"},"query":{"type":"string"},"documents":{"type":"array"},"top_n":{"type":"integer"}}})";
constexpr std::string_view kFeedback = R"({"type":"object","required":["id","score"],"properties":{
  "id":{"type":"string"},"score":{"type":"number","minimum":0,"maximum":1}}})";
constexpr std::string_view kFeedbackAnswer = R"({"type":"object","properties":{"counted":{"type":"boolean"}}})";
constexpr std::string_view kLoadAdapter = R"({"type":"object","required":["lora_name","lora_path"],"properties":{
  "lora_name":{"type":"string"},"lora_path":{"type":"string"},"model":{"type":"string"},"load_inplace":{"type":"boolean"}}})";
constexpr std::string_view kUnloadAdapter = R"({"type":"object","required":["lora_name"],"properties":{
  "lora_name":{"type":"string"}}})";
constexpr std::string_view kTokenize = R"({"type":"object","properties":{
  "model":{"type":"string"},"prompt":{"type":"string"},"messages":{"type":"array"}}})";
constexpr std::string_view kDetokenize = R"({"type":"object","required":["tokens"],"properties":{
  "model":{"type":"string"},"tokens":{"type":"array","items":{"type":"integer"}}}})";
constexpr std::string_view kCompletionAnswer = R"({"type":"object","properties":{
  "id":{"type":"string"},"object":{"type":"string"},"created":{"type":"integer"},"model":{"type":"string"},
  "choices":{"type":"array","items":{"type":"object"}},"usage":{"$ref":"#/components/schemas/Usage"}}})";
constexpr std::string_view kListAnswer = R"({"type":"object","properties":{
  "object":{"type":"string"},"data":{"type":"array","items":{"type":"object"}}}})";
constexpr std::string_view kModel = R"({"$ref":"#/components/schemas/Model"})";
constexpr std::string_view kModels = R"({"type":"object","properties":{
  "object":{"type":"string"},"data":{"type":"array","items":{"$ref":"#/components/schemas/Model"}}}})";
constexpr std::string_view kPrefixes = R"({"type":"object","properties":{
  "model":{"type":"string"},"book":{"type":"string"},"sequence":{"type":"integer"},"whole":{"type":"boolean"},
  "cut":{"type":"boolean"},"keys":{"type":"string"},"tokens":{"type":"array","items":{"type":"integer"}}}})";
constexpr std::string_view kObject = R"({"type":"object"})";
constexpr std::string_view kText = R"({"type":"string"})";

struct Public {
  std::string_view method, path, id, tag, summary, body, answer;
  std::string_view media = "application/json";  // of the answer
};

constexpr Public kPublic[] = {
    {"POST", "/v1/chat/completions", "chat", "inference",
     "Answer a conversation; with \"stream\" as server-sent events.", kChat, kCompletionAnswer},
    {"POST", "/v1/completions", "complete", "inference", "Go on with a text.", kCompletion, kCompletionAnswer},
    {"POST", "/v1/embeddings", "embed", "inference", "Vectors of texts.", kEmbeddings, kListAnswer},
    {"POST", "/v1/rerank", "rerank", "inference", "Order documents by a query.", kRerank, kObject},
    {"POST", "/v1/reranking", "rerankAsReranking", "inference", "The same as /v1/rerank.", kRerank, kObject},
    {"POST", "/v2/rerank", "rerankV2", "inference", "The same as /v1/rerank.", kRerank, kObject},
    {"POST", "/rerank", "rerankPlain", "inference", "The same as /v1/rerank.", kRerank, kObject},
    {"POST", "/v1/feedback", "giveFeedback", "inference",
     "Say how good an answer was, 0 to 1, by its id; counted where it took part in a rollout's trial.", kFeedback,
     kFeedbackAnswer},
    {"GET", "/v1/models", "listServedModels", "inference", "The models that this key may use.", "", kModels},
    {"GET", "/v1/models/*", "showServedModel", "inference", "One of them.", "", kModel},
    {"POST", "/v1/load_lora_adapter", "loadAdapter", "adapters", "Serve a LoRA adapter.", kLoadAdapter, kText,
     "text/plain"},
    {"POST", "/v1/unload_lora_adapter", "unloadAdapter", "adapters", "Serve it no more.", kUnloadAdapter, kText,
     "text/plain"},
    {"GET", "/v1/cache/prefixes/*", "showCachedPrefixes", "serving",
     "What a model's prefix cache has of prompts that came with X-Ashlar-Prefix-Salt: for routers before this server.",
     "", kPrefixes},
    {"POST", "/tokenize", "tokenize", "texts", "A text's tokens.", kTokenize, kObject},
    {"POST", "/detokenize", "detokenize", "texts", "The text of tokens.", kDetokenize, kObject},
    {"POST", "/apply-template", "applyTemplate", "texts", "A conversation as the model reads it.", kChat, kObject},
    {"POST", "/v1/chat/completions/render", "renderChat", "texts", "The same as /apply-template.", kChat, kObject},
    {"GET", "/health", "health", "health", "200 while requests are served, else 503.", "", kObject},
    {"GET", "/v1/health", "healthV1", "health", "The same as /health.", "", kObject},
    {"GET", "/ping", "ping", "health", "The same as /health.", "", kObject},
    {"GET", "/version", "version", "health", "The program's version.", "", kObject},
    {"GET", "/metrics", "metrics", "health", "Prometheus' text format.", "", kText, "text/plain"},
    {"GET", "/api/status", "status", "health", "Requests under way, speed, troubles.", "", kObject},
    {"GET", "/", "page", "health", "A page to chat.", "", kText, "text/html"},
};

}  // namespace

Json public_operation(std::string_view method, std::string_view path) {
  const auto found =
      std::ranges::find_if(kPublic, [&](const Public& each) { return each.method == method && each.path == path; });
  if (found == std::end(kPublic)) return nullptr;
  Json out{{"operationId", found->id}, {"tags", {found->tag}}, {"summary", found->summary}};
  if (!found->body.empty())
    out["requestBody"] = {{"required", true},
                          {"content", {{"application/json", {{"schema", Json::parse(found->body)}}}}}};
  out["responses"] = {
      {"200",
       {{"description", "done"}, {"content", {{std::string(found->media), {{"schema", Json::parse(found->answer)}}}}}}},
      {"default", {{"$ref", "#/components/responses/Error"}}}};
  return out;
}

}  // namespace ashlar::api
