#include "api/api.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "api/door.h"
#include "api/keys.h"
#include "api/routes.h"
#include "base/log.h"

namespace ashlar::api {
namespace {

// The names a browser wants to send, given back if they are names.
std::string plain_header_list(std::string_view text) {
  const bool plain = text.size() <= 2048 && std::ranges::all_of(text, [](char c) {
                       return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
                              c == '_' || c == ',' || c == ' ';
                     });
  return plain && !text.empty() ? std::string(text) : "authorization, content-type, x-api-key, x-request-id";
}

class ApiImpl final : public Api {
 public:
  ApiImpl(ApiOptions options, Keys keys)
      : options_(std::move(options)),
        keys_(std::move(keys)),
        shared_{.keeper = std::make_shared<Keeper>(options_.sse_ping), .adapter_folder = options_.adapter_folder} {}

  net::Handler handler() override {
    return [this](std::shared_ptr<net::Exchange> exchange) { handle(std::move(exchange)); };
  }
  void serve(engine::Generator& generator, engine::Embedder* embedder, engine::Reranker* reranker) override {
    shared_.embedder = embedder;
    shared_.reranker = reranker;
    shared_.generator = &generator;
    Phase loading = Phase::loading;
    shared_.phase.compare_exchange_strong(loading, Phase::ready);
  }
  void drain() override { shared_.phase = Phase::draining; }

 private:
  void handle(std::shared_ptr<net::Exchange> inner) {
    const net::HttpRequest& request = inner->request();
    std::string rest, allow;
    const Route* route = find_route(request.method, request.path, rest, allow);
    const std::string id = request_id(request.headers);
    auto exchange = with_door(std::move(inner), common_headers(request, id), route != nullptr ? route->path : "other");
    try {
      Call call{.exchange = exchange, .shared = shared_, .rest = std::move(rest), .request_id = id};
      if (auto done = answer(call, route, allow); !done) {
        const bool wrong_method = status_of(done.error()) == 405;
        respond_fault(*exchange, done.error(), wrong_method ? net::Headers{{"allow", allow}} : net::Headers{});
      }
    } catch (const std::exception& e) {
      log::error("request_threw", {{"path", request.path}, {"request_id", id}, {"what", e.what()}});
      respond_fault(*exchange,
                    Fault({Code::internal, "something went wrong inside the server; its log has the request's id"}));
    }
  }

  Outcome<void> answer(Call& call, const Route* route, const std::string& allow) {
    const net::HttpRequest& request = call.request();
    if (keys_.empty()) TRY(check_browser(request, options_.cors_origin));
    if (request.method == "OPTIONS" && !allow.empty()) {
      preflight(*call.exchange, allow);
      return {};
    }
    // Who has no key learns nothing of what is served.
    if (route == nullptr || route->scope != Scope::open) call.tenant = TRY(keys_.authenticate(request.headers));
    if (route != nullptr) return route->handle(call);
    if (allow.empty())
      return Fault({Code::not_found, "no such path: " + request.path.substr(0, 200)}, "", "unknown_url");
    Fault fault(
        {Code::invalid, request.path + " does not take " + request.method.substr(0, 32) + "; it takes " + allow}, "",
        "method_not_allowed");
    fault.status = 405;
    return fault;
  }

  void preflight(net::Exchange& exchange, const std::string& allow) {
    net::Headers headers{{"allow", allow + ", OPTIONS"}};
    if (!options_.cors_origin.empty()) {
      headers.emplace_back("access-control-allow-methods", allow + ", OPTIONS");
      headers.emplace_back(
          "access-control-allow-headers",
          plain_header_list(net::find_header(exchange.request().headers, "access-control-request-headers")));
      headers.emplace_back("access-control-max-age", "600");
    }
    exchange.respond(204, std::move(headers), "");
  }

  net::Headers common_headers(const net::HttpRequest& request, const std::string& id) const {
    net::Headers headers{{"x-request-id", id}, {"x-content-type-options", "nosniff"}};
    if (options_.cors_origin.empty() || net::find_header(request.headers, "origin").empty()) return headers;
    headers.emplace_back("access-control-allow-origin", options_.cors_origin);
    headers.emplace_back("access-control-expose-headers", "x-request-id, retry-after");
    if (options_.cors_origin != "*") headers.emplace_back("vary", "origin");
    return headers;
  }

  const ApiOptions options_;
  const Keys keys_;
  Shared shared_;
};

}  // namespace

Outcome<engine::Generator*> Call::generator() const {
  if (shared.phase == Phase::draining) return Fault({Code::unavailable, "the server is shutting down: try again soon"});
  engine::Generator* found = shared.generator;
  if (found == nullptr) return Fault({Code::unavailable, "the model is still loading: try again soon"});
  return found;
}

void Call::respond_json(std::string body) const {
  exchange->respond(200, {{"content-type", "application/json"}}, std::move(body));
}

Result<std::unique_ptr<Api>> Api::create(const ApiOptions& options, const std::string& host) {
  Keys keys = TRY(Keys::create(options.api_key, options.api_key_file));
  TRY(check_exposure(host, !keys.empty()));
  return std::make_unique<ApiImpl>(options, std::move(keys));
}

}  // namespace ashlar::api
