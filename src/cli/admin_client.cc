#include "cli/admin_client.h"

#include <fmt/format.h>

#include <cstdlib>

#include "base/json_full.h"
#include "net/http_client.h"
#include "net/proxy.h"
#include "net/url.h"

namespace ashlar::cli {
namespace {

std::string from_environment(const std::string& given, const char* name, const char* otherwise) {
  if (!given.empty()) return given;
  const char* const value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

// What a refusal's body says.
std::string sentence_of(const net::ClientResponse& response) {
  const auto body = parse_json(response.body);
  if (body && body->is_object() && body->contains("error") && (*body)["error"].is_object())
    if (const auto message = (*body)["error"].find("message");
        message != (*body)["error"].end() && message->is_string())
      return message->get<std::string>();
  return fmt::format("it answered with HTTP {}", response.status);
}

}  // namespace

std::string percent_encode(const std::string& text) {
  std::string out;
  for (const unsigned char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
                       c == '_' || c == '.' || c == '~' || c == '/' || c == ':';
    out += plain ? std::string(1, static_cast<char>(c)) : fmt::format("%{:02X}", c);
  }
  return out;
}

Result<Json> ask_server(const RemoteOptions& options, const std::string& method, const std::string& path,
                        const Json& body) {
  std::string server = from_environment(options.server, "ASHLAR_SERVER", "http://127.0.0.1:8080");
  while (server.ends_with('/')) server.pop_back();
  if (server.ends_with("/v1")) server.resize(server.size() - 3);
  TRY(net::parse_url(server));
  const std::string key = from_environment(options.key, "ASHLAR_KEY", "");
  net::ClientRequest request{.method = method,
                             .url = server + "/admin/v1" + path,
                             .timeout = std::chrono::minutes(10)};  // a model may have to be loaded
  if (!key.empty()) request.headers.emplace_back("authorization", "Bearer " + key);
  if (!body.is_null()) {
    request.headers.emplace_back("content-type", "application/json");
    request.body = dump_json(body);
  }
  const auto client =
      TRY(net::HttpClient::create({.connect_timeout = std::chrono::seconds(5),
                                   .proxies = net::ProxyRules(net::proxy_settings_from_environment())}));
  const auto response = net::fetch(*client, std::move(request));
  if (!response)
    return Error{Code::unavailable,
                 fmt::format("no server answers at {} ({}): start one with `ashlar serve`, or name it with --server",
                             server, response.error().message)};
  if (response->status == 401)
    return Error{Code::unauthorized, fmt::format("{}: {} (--key KEY, or ASHLAR_KEY)", server, sentence_of(*response))};
  if (response->status == 403)
    return Error{Code::forbidden, fmt::format("{}: this key may not do that: {}", server, sentence_of(*response))};
  if (response->status < 200 || response->status > 299)
    return Error{Code::invalid, fmt::format("{}: {}", server, sentence_of(*response))};
  auto answer = parse_json(response->body, {.elements = 1'000'000});
  if (!answer) return Error{Code::corrupt, fmt::format("{}: its answer is no JSON: is it an Ashlar?", server)};
  return answer;
}

Result<Json> ask_server(const RemoteOptions& options, const std::string& method, const std::string& path) {
  return ask_server(options, method, path, Json());
}

}  // namespace ashlar::cli
