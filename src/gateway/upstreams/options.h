// What is said of each upstream: in the section `upstreams` of the configuration file, or in short as NAME=URL.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "net/http_client.h"

namespace ashlar::gateway {

// A model of an upstream: the name that we serve it under, and its own.
struct UpstreamModel {
  std::string name, model;
  bool operator==(const UpstreamModel&) const = default;
};

struct UpstreamOptions {
  std::string name;
  std::string kind = "openai";
  std::string url;
  std::vector<UpstreamModel> models;  // empty: those that the upstream lists

  // References to secrets (secrets.h), never the secrets.
  std::string api_key;
  std::string access_key, secret_key, session_token;  // bedrock; all empty: AWS's own variables

  std::string api_version;                                   // azure, anthropic
  std::string region;                                        // bedrock
  std::vector<std::pair<std::string, std::string>> headers;  // sent with every request; values may be secret references

  std::chrono::milliseconds connect_timeout{5'000};
  std::chrono::milliseconds first_token_timeout{60'000};
  std::chrono::milliseconds between_tokens_timeout{30'000};
  std::chrono::milliseconds total_timeout{0};  // 0: none

  int max_attempts = 3;  // of one request, the first among them
  std::chrono::milliseconds retry_base{100}, retry_cap{5'000};
  double retry_budget = 0.2;                 // share of the requests under way that may be retries or hedges
  int retry_floor = 3;                       // as many may be in any case
  std::chrono::milliseconds hedge_after{0};  // without a token a second attempt is made; 0: never

  std::chrono::milliseconds health_interval{5'000};  // 0: no probes
  std::string health_path;                           // of the URL's host; empty: the kind's own
  int health_failures = 3;                           // in a row make it down

  // How often it is asked how many requests wait there and how full its memory is, as long as it tells; 0: never. Of
  // kind openai alone.
  std::chrono::milliseconds load_interval{1'000};

  // It is an Ashlar: it is asked so often what its prefix caches have, for routes by prefix-index, and each of our
  // tenants has blocks of its own there. The key must be an operator's there. 0: it is not asked.
  std::chrono::milliseconds blocks_interval{0};

  // Marked data that may go there where one of its models is asked for by name, "sensitive"; unmarked always may.
  std::vector<std::string> data_classes;

  bool allow_private = false;  // addresses of private networks; this machine's are fine where the URL names it
  // A stream's pieces are asked for with what was counted so far, of kind openai: who leaves in the midst of an answer
  // then pays what the upstream counted. For servers that know continuous_usage_stats (vLLM, SGLang, Ashlar).
  bool continuous_usage = false;
  bool stream = true;  // answers are asked for in pieces; false: for servers that cannot
  Bytes max_answer{64 << 20};
  int max_tokens = 4096;  // where a kind must be told and the client said nothing
  int context = 0;        // tokens; 0: as the upstream says
  std::string tls_ca;
  bool tls_verify = true;
  net::Http2 http2 = net::Http2::tls;
  std::string proxy;  // as check_proxy (proxied.h) has it; empty: none
  bool operator==(const UpstreamOptions&) const = default;
};

// A cloud's region, "eu-west-1": it becomes a part of a host's name.
bool is_region(std::string_view text);

// The section `upstreams` of the file at `path`; none: no upstreams. invalid: every fault of the section, a line each
// ("ashlar.yaml:7: ..."); not_found.
Result<std::vector<UpstreamOptions>> read_upstreams(const std::string& path);
// The same of a text, which errors call `path`.
Result<std::vector<UpstreamOptions>> parse_upstreams(const std::string& text, const std::string& path);

// "NAME=URL" of the command line: an OpenAI server, whose key, if it wants one, is in ASHLAR_<NAME>_KEY. Private
// addresses are allowed: who runs the program typed them.
Result<UpstreamOptions> parse_upstream_flag(std::string_view text);

}  // namespace ashlar::gateway
