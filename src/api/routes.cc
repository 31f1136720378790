#include "api/routes.h"

namespace ashlar::api {
namespace {

constexpr Route kRoutes[] = {
    {"POST", "/v1/chat/completions", Scope::use, chat_completions},
    {"POST", "/v1/completions", Scope::use, completions},
    {"POST", "/v1/embeddings", Scope::use, embeddings},
    {"POST", "/v1/rerank", Scope::use, rerank},
    {"POST", "/v1/reranking", Scope::use, rerank},
    {"POST", "/v2/rerank", Scope::use, rerank},
    {"POST", "/rerank", Scope::use, rerank},
    {"POST", "/v1/feedback", Scope::use, feedback},
    {"GET", "/v1/models", Scope::use, list_models},
    {"GET", "/v1/models/*", Scope::use, show_model},

    {"POST", "/v1/load_lora_adapter", Scope::operate, load_adapter},
    {"POST", "/v1/unload_lora_adapter", Scope::operate, unload_adapter},

    {"GET", "/v1/cache/prefixes/*", Scope::operate, show_prefixes},

    {"POST", "/tokenize", Scope::use, tokenize},
    {"POST", "/detokenize", Scope::use, detokenize},
    {"POST", "/apply-template", Scope::use, apply_template},
    {"POST", "/v1/chat/completions/render", Scope::use, apply_template},

    {"GET", "/health", Scope::open, health},
    {"GET", "/v1/health", Scope::open, health},
    {"GET", "/ping", Scope::open, health},
    {"GET", "/version", Scope::open, version},
    {"GET", "/metrics", Scope::audit, show_metrics},
    {"GET", "/api/status", Scope::use, status},

    {"GET", "/", Scope::open, page},
};

bool matches(std::string_view pattern, std::string_view path, std::string& rest) {
  if (!pattern.ends_with('*')) return pattern == path;
  pattern.remove_suffix(1);
  if (!path.starts_with(pattern) || path.size() == pattern.size()) return false;
  rest = path.substr(pattern.size());
  return true;
}

}  // namespace

std::span<const Route> routes() { return kRoutes; }

const Route* find_route(std::string_view method, std::string_view path, std::string& rest, std::string& allow) {
  if (method == "HEAD") method = "GET";
  for (const Route& route : kRoutes) {
    if (!matches(route.path, path, rest)) continue;
    if (route.method == method) return &route;
    if (!allow.empty()) allow.append(", ");
    allow.append(route.method == "GET" ? "GET, HEAD" : route.method);
  }
  return nullptr;
}

}  // namespace ashlar::api
