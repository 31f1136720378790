// What `ashlar serve` can be told, by flags and in its configuration file.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "api/api.h"
#include "base/bytes.h"
#include "cli/host.h"
#include "cli/metering.h"
#include "cli/model_repository.h"
#include "gateway/routing/router.h"
#include "gateway/upstreams/options.h"
#include "net/http_server.h"
#include "store/database.h"

namespace ashlar::cli {

struct RoutingOptions {
  Bytes response_cache{0};
  std::chrono::milliseconds response_cache_ttl{3'600'000};
  void fields(auto&& field) {
    field(
        "response_cache", response_cache,
        "Memory for answers of routes, given again to who asks the same (temperature 0, or a seed; cache-control says "
        "otherwise), and first where every deployment is out; 0: none is kept.");
    field("response_cache_ttl", response_cache_ttl, "Milliseconds that such an answer is good for.");
  }
};

struct ServeOptions {
  std::vector<std::string> model;
  std::vector<std::string> upstream;
  net::ServerOptions server;
  api::ApiOptions api;
  HostOptions host;
  RoutingOptions routing;
  RepositoryOptions repository;
  store::StateOptions state = store::state_options_from_environment();
  std::string identity;
  MeteringOptions metering;
  std::chrono::milliseconds drain_timeout{30'000};
  std::string log_level = "info", log_format = "text";
  void fields(auto&& field) {
    field("model", model, "A model as PATH, a pulled model's name, or NAME=either; may be given many times.");
    field("upstream", upstream,
          "NAME=URL of another OpenAI-compatible server, whose models are served too; its key, if it wants one, is in "
          "ASHLAR_<NAME>_KEY. May be given many times; the section `upstreams` of --config says more of them.");
    server.fields(field);
    api.fields(field);
    host.fields(field);
    routing.fields(field);
    repository.fields(field);
    state.fields(field);
    field(
        "identity", identity,
        "File (YAML) of who else may ask: issuers of tokens (OpenID Connect), clients' certificates, and the rules of "
        "what each may do.");
    metering.fields(field);
    field("drain_timeout", drain_timeout, "Milliseconds that running answers get to end after SIGTERM.");
    field("log_level", log_level, "debug, info, warn, error or off.");
    field("log_format", log_format, "text or json.");
  }
};

// The file's members that are no options.
inline const std::vector<std::string> kConfigSections = {"upstreams", "routes"};

// What stands between the clients and the models.
struct GatewayPlan {
  std::vector<gateway::UpstreamOptions> upstreams;  // those of the flags, then the file's
  gateway::RouteTable routes;                       // without generators
};

}  // namespace ashlar::cli
