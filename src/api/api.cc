#include "api/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "api/admin_table.h"
#include "api/door.h"
#include "api/keys.h"
#include "api/routes.h"
#include "api/wrong_keys.h"
#include "base/log.h"
#include "gateway/identity/identity.h"

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

// Who may do everything: on a server without keys whoever reaches it, with keys of the command line whoever has one.
gateway::Who owner(std::string tenant, gateway::Proof proof) {
  return std::make_shared<const gateway::Principal>(gateway::Principal{
      .key_id = tenant, .name = tenant, .tenant = tenant, .roles = {gateway::Role::admin}, .proof = proof});
}

// A request whose sender is being asked for.
struct Asked {
  Call call;
  std::shared_ptr<Door> door;  // the call's exchange
  const Route* route;
  std::string allow;
  bool is_admin = false;      // the path is the admin API's, and
  AdminTable::Found admin{};  // this is what it means

  // Who may not read what happened does not learn either which of those paths there are.
  Scope scope() const {
    if (route != nullptr) return route->scope;
    if (admin.operation != nullptr) return admin.operation->scope;
    return is_admin ? Scope::audit : Scope::use;
  }
  // He was let in, and wants something computed.
  bool asks_for_work() const {
    return route != nullptr && route->scope == Scope::use && route->method == "POST" && call.who != nullptr;
  }
};

Fault forbidden(const Call& call, const gateway::Decision& decision) {
  log::info("request_forbidden", {{"request_id", call.request_id},
                                  {"key", call.who->key_id},
                                  {"path", call.request().path},
                                  {"rule", decision.rule},
                                  {"why", decision.why}});
  return Fault({Code::forbidden, "this is not allowed: " + decision.why});
}

class ApiImpl final : public Api {
 public:
  ApiImpl(ApiOptions options, Keys keys, std::unique_ptr<gateway::Identity> identity)
      : options_(std::move(options)),
        keys_(std::make_shared<const Keys>(std::move(keys))),
        shared_{.keeper = std::make_shared<Keeper>(options_.sse_ping),
                .adapter_folder = options_.adapter_folder,
                .identity = identity.get()},
        identity_(std::move(identity)) {}

  net::Handler handler() override {
    return [this](std::shared_ptr<net::Exchange> exchange) { handle(std::move(exchange)); };
  }
  void serve(engine::Generator& generator, engine::Embedder* embedder, engine::Reranker* reranker,
             std::function<std::vector<std::string>()> troubles) override {
    shared_.troubles = std::move(troubles);
    shared_.embedder = embedder;
    shared_.reranker = reranker;
    shared_.generator = &generator;
    Phase loading = Phase::loading;
    shared_.phase.compare_exchange_strong(loading, Phase::ready);
  }
  void set_feedback(decltype(Shared::feedback) feedback) override { shared_.feedback = std::move(feedback); }
  void set_rates(decltype(Shared::rates) rates) override { shared_.rates = std::move(rates); }
  void set_keys(Keys keys) override {
    auto fresh = std::make_shared<const Keys>(std::move(keys));
    const std::lock_guard lock(keys_mutex_);
    keys_.swap(fresh);
  }
  void drain() override { shared_.phase = Phase::draining; }
  void set_admin(std::vector<AdminOperation> operations, gateway::EventLog* events) override {
    CHECK(admin_ == nullptr, "the admin API is given once");
    admin_ = std::make_unique<AdminTable>(std::move(operations), events);
    shared_.admin = admin_.get();
  }
  void end_admin() override {
    if (admin_) admin_->end();
  }

 private:
  std::shared_ptr<const Keys> keys() const {
    const std::lock_guard lock(keys_mutex_);
    return keys_;
  }

  // Nobody is asked who they are.
  bool open_to_all(const Keys& keys) const {
    return keys.empty() && (shared_.identity == nullptr || !shared_.identity->required());
  }

  void handle(std::shared_ptr<net::Exchange> inner) {
    const net::HttpRequest& request = inner->request();
    std::string rest, allow;
    const Route* route = find_route(request.method, request.path, rest, allow);
    AdminTable::Found found;
    const bool is_admin = AdminTable::has(request.path);
    if (const AdminTable* const admin = shared_.admin; is_admin && admin != nullptr) found = admin->find(request);
    std::string id = given_request_id(request.headers);
    const bool id_is_given = !id.empty();
    if (!id_is_given) id = "req-" + random_hex(24);
    const std::string_view label = route != nullptr             ? route->path
                                   : found.operation != nullptr ? std::string_view(found.operation->path)
                                                                : "other";
    auto exchange = with_door(std::move(inner), common_headers(request, id), label);
    auto asked = std::make_shared<Asked>(Call{.exchange = exchange,
                                              .shared = shared_,
                                              .rest = std::move(rest),
                                              .request_id = id,
                                              .id_is_given = id_is_given},
                                         exchange, route, is_admin ? found.allow : std::move(allow), is_admin, found);
    attempt(*asked, [&] { return receive(asked); });
  }

  // What goes wrong in `step` is the answer.
  void attempt(Asked& asked, auto&& step) {
    const net::HttpRequest& request = asked.call.request();
    net::Exchange& exchange = *asked.call.exchange;
    try {
      if (Outcome<void> done = step(); !done) {
        const bool wrong_method = status_of(done.error()) == 405;
        net::Headers headers;
        if (wrong_method) headers.emplace_back("allow", asked.allow);
        if (asked.asks_for_work()) headers.push_back(overhead_header(asked.door->arrived()));
        respond_fault(exchange, done.error(), std::move(headers));
      }
    } catch (const std::bad_alloc&) {
      respond_fault(exchange,
                    Fault({Code::unavailable, "the server has no memory for this request: try again in a moment"}));
    } catch (const std::exception& e) {
      log::error("request_threw", {{"path", request.path}, {"request_id", asked.call.request_id}, {"what", e.what()}});
      respond_fault(exchange,
                    Fault({Code::internal, "something went wrong inside the server; its log has the request's id"}));
    }
  }

  Outcome<void> receive(const std::shared_ptr<Asked>& asked) {
    Call& call = asked->call;
    const net::HttpRequest& request = call.request();
    const auto keys = this->keys();
    const bool open = open_to_all(*keys);
    if (open) TRY(check_browser(request, options_.cors_origin));
    if (request.method == "OPTIONS" && !asked->allow.empty()) {
      preflight(*call.exchange, asked->allow);
      return {};
    }
    // Who may not ask learns nothing of what is served.
    if (asked->route != nullptr && asked->route->scope == Scope::open) return asked->route->handle(call);
    if (open) return admit(*asked, owner("", gateway::Proof::loopback));
    const auto credential = credential_of(request.headers);
    if (auto tenant = keys->find(credential)) return admit(*asked, owner(std::move(*tenant), gateway::Proof::key));
    if (shared_.identity == nullptr || !shared_.identity->required())
      return not_known(call, credential.empty() ? keys->authenticate(request.headers).error()
                                                : Error{Code::unauthorized, "the API key is not valid"});
    shared_.identity->identify(credential, request, [this, asked](Result<gateway::Who> who) {
      attempt(*asked, [&]() -> Outcome<void> {
        if (!who) return not_known(asked->call, std::move(who.error()));
        return admit(*asked, std::move(*who));
      });
    });
    return {};
  }

  // Who shows too many wrong keys is not even told that they are wrong.
  Fault not_known(const Call& call, Error error) {
    const net::HttpRequest& request = call.request();
    const auto shown = credential_of(request.headers);
    // Tokens of issuers cannot be guessed, and those that have expired must be told so.
    if (error.code != Code::unauthorized || shown.empty() || gateway::looks_like_token(shown))
      return Fault(std::move(error));
    const auto wait = wrong_keys_.count(gateway::address_of_peer(request.peer), shown, WrongKeys::Clock::now());
    if (!wait) return Fault(std::move(error));
    Fault fault({Code::exhausted, "too many wrong API keys came from this address; right ones are still taken"}, "",
                "rate_limit_exceeded");
    fault.retry_after = *wait;
    return fault;
  }

  Outcome<void> admit(Asked& asked, gateway::Who who) {
    Call& call = asked.call;
    call.who = std::move(who);
    call.tenant = call.who->tenant;
    const bool known = asked.route != nullptr || asked.is_admin;
    if (asked.route != nullptr && asked.scope() == Scope::use && shared_.generator != nullptr && shared_.rates)
      asked.door->set_rates([this, who = call.who, tenant = call.tenant] { return shared_.rates(*who, tenant); });
    if (known && shared_.identity != nullptr) {
      const auto decision = shared_.identity->decide(*call.who, call.action(asked.scope()));
      if (!decision.allowed) return forbidden(call, decision);
    }
    if (asked.route != nullptr) return asked.route->handle(call);
    AdminTable* const admin = shared_.admin;
    if (asked.is_admin && admin == nullptr)
      return Fault({Code::unavailable, "the server is still starting: try again soon"});
    if (asked.admin.operation != nullptr) return admin->run(call, std::move(asked.admin));
    return no_route(call.request(), asked.allow);
  }

  static Outcome<void> no_route(const net::HttpRequest& request, const std::string& allow) {
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
    headers.emplace_back("access-control-expose-headers",
                         "x-request-id, retry-after, x-should-retry, x-ratelimit-limit-requests, "
                         "x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
                         "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, x-ashlar-overhead-ms, "
                         "x-ashlar-dropped-reason, x-ashlar-route");
    if (options_.cors_origin != "*") headers.emplace_back("vary", "origin");
    return headers;
  }

  const ApiOptions options_;
  mutable std::mutex keys_mutex_;
  std::shared_ptr<const Keys> keys_;  // GUARDED_BY(keys_mutex_); never null
  Shared shared_;
  std::unique_ptr<AdminTable> admin_;
  WrongKeys wrong_keys_;
  const std::unique_ptr<gateway::Identity> identity_;  // dies first: whoever waits for an issuer is answered then
};

}  // namespace

gateway::Action Call::action(Scope scope, const engine::ModelCard* model) const {
  gateway::Action action{.scope = scope,
                         .source = gateway::address_of_peer(request().peer),
                         .data_classes = declared_classes(request().headers),
                         .unix_seconds = shared.identity->unix_seconds()};
  if (model == nullptr) return action;
  action.models = {model->id};
  if (!model->alias_of.empty()) action.models.push_back(model->alias_of);
  return action;
}

namespace {

// Who may use a model may call it by any of its names.
bool may_use_some(const gateway::Principal& who, const engine::ModelCard& model) {
  return who.may_use_model(model.id) || (!model.alias_of.empty() && who.may_use_model(model.alias_of));
}

}  // namespace

Outcome<void> Call::check_model(const engine::ModelCard& model) const {
  if (who == nullptr) return {};
  if (!may_use_some(*who, model))
    return Fault({Code::forbidden, fmt::format("this key may not use the model '{}'", model.id)}, "model",
                 "model_not_allowed");
  if (shared.identity == nullptr) return {};
  const auto decision = shared.identity->decide(*who, action(Scope::use, &model));
  return decision.allowed ? Outcome<void>() : forbidden(*this, decision);
}

bool Call::may_use(const engine::ModelCard& model) const {
  if (who == nullptr) return true;
  if (!may_use_some(*who, model)) return false;
  return shared.identity == nullptr || shared.identity->decide(*who, action(Scope::use, &model)).allowed;
}

Outcome<engine::Generator*> Call::generator() const {
  if (shared.phase == Phase::draining) return Fault({Code::unavailable, "the server is shutting down: try again soon"});
  engine::Generator* found = shared.generator;
  if (found == nullptr) return Fault({Code::unavailable, "the model is still loading: try again soon"});
  return found;
}

void Call::respond_json(std::string body) const {
  exchange->respond(200, {{"content-type", "application/json"}}, std::move(body));
}

Result<std::unique_ptr<Api>> Api::create(const ApiOptions& options, const std::string& host,
                                         std::unique_ptr<gateway::Identity> identity) {
  Keys keys = TRY(Keys::create(options.api_key, options.api_key_file));
  TRY(check_exposure(host, !keys.empty() || (identity != nullptr && identity->required())));
  return std::make_unique<ApiImpl>(options, std::move(keys), std::move(identity));
}

}  // namespace ashlar::api
