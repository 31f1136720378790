// The OpenAPI document, made from the tables that are served.
#include <algorithm>
#include <cctype>
#include <string>

#include "api/admin_table.h"
#include "api/public_operations.h"
#include "base/json_full.h"

namespace ashlar::api {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// The "{name}"s of a path.
Json path_parameters(std::string_view path) {
  Json out = Json::array();
  for (std::size_t at = path.find('{'); at != path.npos; at = path.find('{', at + 1))
    out.push_back({{"name", path.substr(at + 1, path.find('}', at) - at - 1)},
                   {"in", "path"},
                   {"required", true},
                   {"schema", {{"type", "string"}}}});
  return out;
}

Json describe(const AdminOperation& operation) {
  Json out{{"operationId", operation.id}, {"tags", {operation.tag}}, {"summary", operation.summary}};
  out["description"] =
      "Needs a key that may " + std::string(operation.scope == gateway::Scope::audit
                                                ? "read what happened: admin, operator or auditor."
                                            : operation.scope == gateway::Scope::operate ? "operate: admin or operator."
                                                                                         : "administer: admin.");
  Json parameters = path_parameters(operation.path);
  if (operation.parameters.is_array())
    for (Json parameter : operation.parameters) {
      parameter["in"] = "query";
      parameters.push_back(std::move(parameter));
    }
  if (operation.method == "POST") parameters.push_back({{"$ref", "#/components/parameters/IdempotencyKey"}});
  if (!parameters.empty()) out["parameters"] = std::move(parameters);
  if (!operation.body.is_null())
    out["requestBody"] = {{"required", operation.body.contains("required")},
                          {"content", {{"application/json", {{"schema", operation.body}}}}}};
  const Json answer = operation.answer.is_null() ? Json{{"type", "object"}} : operation.answer;
  out["responses"] = {{"200", {{"description", "done"}, {"content", {{"application/json", {{"schema", answer}}}}}}},
                      {"default", {{"$ref", "#/components/responses/Error"}}}};
  return out;
}

Json components() {
  return Json::parse(R"({
  "securitySchemes": {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key (ak-...) or a token of a configured issuer."},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"}
  },
  "parameters": {
    "IdempotencyKey": {"name": "Idempotency-Key", "in": "header", "required": false,
      "description": "Who sends a request again with the same text here gets the first one's answer, for ten minutes.",
      "schema": {"type": "string", "maxLength": 255}}
  },
  "responses": {
    "Error": {"description": "refused, with a sentence that says why",
      "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
  },
  "schemas": {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "object",
      "required": ["message", "type"], "properties": {
        "message": {"type": "string"}, "type": {"type": "string"},
        "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}}}}},
    "Model": {"type": "object", "properties": {
      "id": {"type": "string"}, "object": {"type": "string"}, "created": {"type": "integer"}, "owned_by": {"type": "string"}}},
    "Usage": {"type": "object", "properties": {
      "prompt_tokens": {"type": "integer"}, "completion_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}}}
  }
})");
}

}  // namespace

Json openapi(const std::vector<AdminOperation>& operations) {
  Json paths = Json::object();
  for (const Route& route : routes()) {
    Json operation = public_operation(route.method, route.path);
    if (operation.is_null()) continue;
    std::string path(route.path);
    if (path.ends_with('*')) path.replace(path.size() - 1, 1, "{model}");
    if (Json parameters = path_parameters(path); !parameters.empty()) operation["parameters"] = std::move(parameters);
    if (route.scope == Scope::open) operation["security"] = Json::array();
    paths[path][lower(route.method)] = std::move(operation);
  }
  for (const AdminOperation& operation : operations)
    paths[operation.path][lower(operation.method)] = describe(operation);
  return {{"openapi", "3.1.0"},
          {"info",
           {{"title", "Ashlar"},
            {"version", ASHLAR_VERSION},
            {"summary", "Large language models over the OpenAI API, and the gateway's administration."},
            {"license", {{"name", "Apache-2.0"}, {"identifier", "Apache-2.0"}}}}},
          {"servers", Json::array({{{"url", "http://127.0.0.1:8080"}}})},
          {"security", Json::array({{{"bearer", Json::array()}}, {{"header", Json::array()}}})},
          {"paths", std::move(paths)},
          {"components", components()}};
}

}  // namespace ashlar::api
