#include "gateway/upstreams/options.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "base/nearest.h"
#include "gateway/section.h"
#include "gateway/upstreams/proxied.h"
#include "gateway/upstreams/secrets.h"
#include "gateway/upstreams/wire.h"
#include "net/http_text.h"
#include "net/url.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMaxUpstreams = 1000, kMaxModels = 1000, kMaxHeaders = 100;

// Where a fault of a member is shown: the whole, where it is not there.
YAML::Node place(const YAML::Node& node, const char* member) {
  const YAML::Node found = node[member];
  return found.IsDefined() ? found : node;
}

class UpstreamsReader {
 public:
  explicit UpstreamsReader(Section& section) : section_(section) {}
  std::vector<UpstreamOptions> read(const YAML::Node& list);

 private:
  UpstreamOptions upstream(const YAML::Node& node);
  Section::Readers members(UpstreamOptions& out);
  Section::Read secret(std::string name, std::string& out);
  Section::Read http2(net::Http2& out);
  Section::Read proxy(std::string& out);
  void models(const YAML::Node& node, UpstreamOptions& out);
  void headers(const YAML::Node& node, UpstreamOptions& out);
  void check(const YAML::Node& node, const UpstreamOptions& out);

  Section& section_;
};

Section::Read UpstreamsReader::secret(std::string name, std::string& out) {
  return [this, name, &out](const YAML::Node& node) {
    section_.text(name, out)(node);
    if (auto fine = check_secret(out); !out.empty() && !fine)
      section_.fail(node, fmt::format("'{}': {}", name, fine.error().message));
  };
}

Section::Read UpstreamsReader::http2(net::Http2& out) {
  return [this, &out](const YAML::Node& node) {
    bool on = false;
    if (node.IsScalar() && node.Scalar() == "always")
      out = net::Http2::always;
    else if (node.IsScalar() && YAML::convert<bool>::decode(node, on))
      out = on ? net::Http2::tls : net::Http2::off;
    else
      section_.fail(node, "'http2' should be true (over TLS), false, or always (without TLS as well)");
  };
}

Section::Read UpstreamsReader::proxy(std::string& out) {
  return [this, &out](const YAML::Node& node) {
    section_.text("proxy", out)(node);
    if (auto fine = check_proxy(out); !fine) section_.fail(node, fine.error().message);
  };
}

Section::Readers UpstreamsReader::members(UpstreamOptions& out) {
  return {
      {"name", section_.text("name", out.name)},
      {"kind", section_.text("kind", out.kind)},
      {"url", section_.text("url", out.url)},
      {"models", [this, &out](const YAML::Node& node) { models(node, out); }},
      {"headers", [this, &out](const YAML::Node& node) { headers(node, out); }},
      {"api_key", secret("api_key", out.api_key)},
      {"access_key", secret("access_key", out.access_key)},
      {"secret_key", secret("secret_key", out.secret_key)},
      {"session_token", secret("session_token", out.session_token)},
      {"api_version", section_.text("api_version", out.api_version)},
      {"region", section_.text("region", out.region)},
      {"connect_timeout", section_.duration("connect_timeout", out.connect_timeout)},
      {"first_token_timeout", section_.duration("first_token_timeout", out.first_token_timeout)},
      {"between_tokens_timeout", section_.duration("between_tokens_timeout", out.between_tokens_timeout)},
      {"total_timeout", section_.duration("total_timeout", out.total_timeout)},
      {"max_attempts", section_.whole("max_attempts", out.max_attempts, 1, 10)},
      {"retry_base", section_.duration("retry_base", out.retry_base)},
      {"retry_cap", section_.duration("retry_cap", out.retry_cap)},
      {"retry_budget", section_.number("retry_budget", out.retry_budget, 0, 1)},
      {"retry_floor", section_.whole("retry_floor", out.retry_floor, 0, 1000)},
      {"hedge_after", section_.duration("hedge_after", out.hedge_after)},
      {"health_interval", section_.duration("health_interval", out.health_interval)},
      {"health_path", section_.text("health_path", out.health_path)},
      {"health_failures", section_.whole("health_failures", out.health_failures, 1, 100)},
      {"load_interval", section_.duration("load_interval", out.load_interval)},
      {"blocks_interval", section_.duration("blocks_interval", out.blocks_interval)},
      {"data_classes", section_.classes("data_classes", out.data_classes)},
      {"allow_private", section_.flag("allow_private", out.allow_private)},
      {"continuous_usage", section_.flag("continuous_usage", out.continuous_usage)},
      {"stream", section_.flag("stream", out.stream)},
      {"max_answer", section_.bytes("max_answer", out.max_answer, 1024)},
      {"max_tokens", section_.whole("max_tokens", out.max_tokens, 1, 100'000'000)},
      {"context", section_.whole("context", out.context, 1, 100'000'000)},
      {"tls_ca", section_.text("tls_ca", out.tls_ca)},
      {"tls_verify", section_.flag("tls_verify", out.tls_verify)},
      {"http2", http2(out.http2)},
      {"proxy", proxy(out.proxy)},
  };
}

void UpstreamsReader::models(const YAML::Node& node, UpstreamOptions& out) {
  if (node.IsNull()) return section_.wrong(node, "models", "a list");
  section_.items(node, "models", kMaxModels, [&](const YAML::Node& item) {
    UpstreamModel model;
    if (item.IsScalar()) {
      model.name = model.model = item.Scalar();
    } else if (item.IsMap()) {
      section_.each(item, {{"name", section_.text("name", model.name)}, {"model", section_.text("model", model.model)}},
                    "a model");
      if (model.model.empty()) model.model = model.name;
      if (model.name.empty()) model.name = model.model;
    }
    if (!is_config_name(model.name) || !is_config_name(model.model))
      section_.fail(item, "a model should be its name, or {name: as it is served, model: as the upstream calls it}");
    else if (std::ranges::find(out.models, model.name, &UpstreamModel::name) != out.models.end())
      section_.fail(item, fmt::format("the model '{}' stands twice", model.name));
    out.models.push_back(std::move(model));
  });
}

void UpstreamsReader::headers(const YAML::Node& node, UpstreamOptions& out) {
  section_.pairs(node, "headers", kMaxHeaders, [&](const std::string& written, const YAML::Node& value) {
    const std::string name = net::lower(written);
    if (name.empty() || name == "host" || !net::may_send(name))
      return section_.fail(value, fmt::format("'{}' is no header that may be sent", written));
    std::string text;
    section_.text(written, text)(value);
    if (std::ranges::find(out.headers, name, &std::pair<std::string, std::string>::first) != out.headers.end())
      return section_.fail(value, fmt::format("the header '{}' stands twice", name));
    const bool secret = name == "authorization" || name.find("key") != name.npos || name.find("token") != name.npos;
    if (auto fine = check_secret(text); secret && !text.empty() && !fine)
      section_.fail(value, fmt::format("'{}': {}", name, fine.error().message));
    out.headers.emplace_back(name, std::move(text));
  });
}

void UpstreamsReader::check(const YAML::Node& node, const UpstreamOptions& out) {
  if (!is_config_name(out.name) || out.name.find('/') != out.name.npos)
    section_.fail(node, "an upstream needs a 'name', a word without '/'");
  const auto kinds = upstream_kinds();
  if (std::ranges::find(kinds, out.kind) == kinds.end())
    section_.fail(place(node, "kind"), fmt::format("no kind of upstream is called '{}'{}; there are {}", out.kind,
                                                   did_you_mean(out.kind, kinds), fmt::join(kinds, ", ")));
  else if (out.url.empty() && default_url(out).empty())
    section_.fail(node, fmt::format("the upstream '{}' needs a 'url'", out.name));
  if (!out.url.empty())
    if (auto url = net::parse_url(out.url); !url) section_.fail(place(node, "url"), url.error().message);
  if ((out.kind == "azure" || out.kind == "bedrock" || out.kind == "dashscope") && out.models.empty())
    section_.fail(node, fmt::format("an upstream of kind {} needs its 'models'{}: it does not list them", out.kind,
                                    out.kind == "azure" ? ", the names of its deployments" : ""));
  if (out.kind != "openai" && out.blocks_interval.count() > 0)
    section_.fail(place(node, "blocks_interval"), "'blocks_interval' is for another Ashlar, of kind openai");
  if (out.continuous_usage && (out.kind != "openai" || !out.stream))
    section_.fail(place(node, "continuous_usage"), "'continuous_usage' is for streams of kind openai");
  if (out.blocks_interval.count() > 0 && out.blocks_interval < std::chrono::milliseconds(10))
    section_.fail(place(node, "blocks_interval"), "'blocks_interval' should be 10ms at least, or 0");
  if (out.load_interval.count() > 0 && out.load_interval < std::chrono::milliseconds(10))
    section_.fail(place(node, "load_interval"), "'load_interval' should be 10ms at least, or 0");
  if (out.kind == "bedrock" && out.region.empty())
    section_.fail(node, "an upstream of kind bedrock needs its 'region'");
  if (!out.region.empty() && !is_region(out.region))
    section_.fail(place(node, "region"), "'region' should be letters, digits and '-', as eu-west-1");
}

UpstreamOptions UpstreamsReader::upstream(const YAML::Node& node) {
  UpstreamOptions out;
  if (!node.IsMap()) {
    section_.fail(node, "an upstream should be a map, with a name and a url");
    return out;
  }
  section_.each(node, members(out), "an upstream");
  check(node, out);
  return out;
}

std::vector<UpstreamOptions> UpstreamsReader::read(const YAML::Node& list) {
  std::vector<UpstreamOptions> out;
  section_.items(list, "upstreams", kMaxUpstreams, [&](const YAML::Node& item) {
    UpstreamOptions next = upstream(item);
    if (!next.name.empty() && std::ranges::find(out, next.name, &UpstreamOptions::name) != out.end())
      section_.fail(item, fmt::format("two upstreams are called '{}'", next.name));
    out.push_back(std::move(next));
  });
  return out;
}

}  // namespace

bool is_region(std::string_view text) {
  return !text.empty() && text.size() <= 40 &&
         std::ranges::all_of(text, [](unsigned char c) { return std::isalnum(c) || c == '-'; });
}

Result<std::vector<UpstreamOptions>> parse_upstreams(const std::string& text, const std::string& path) {
  std::vector<UpstreamOptions> out;
  TRY(read_section(text, path, "upstreams",
                   [&](Section& section, const YAML::Node& list) { out = UpstreamsReader(section).read(list); }));
  return out;
}

Result<std::vector<UpstreamOptions>> read_upstreams(const std::string& path) {
  const std::string text = TRY(read_config_text(path));
  return parse_upstreams(text, path);
}

Result<UpstreamOptions> parse_upstream_flag(std::string_view text) {
  const auto equals = text.find('=');
  if (equals == text.npos || equals == 0)
    return Error{Code::invalid, fmt::format("--upstream: '{}' is not NAME=URL", text)};
  UpstreamOptions out{
      .name = std::string(text.substr(0, equals)), .url = std::string(text.substr(equals + 1)), .allow_private = true};
  if (!is_config_name(out.name) || out.name.find('/') != out.name.npos)
    return Error{Code::invalid, fmt::format("--upstream: '{}' is no name", out.name)};
  TRY(net::parse_url(out.url));
  std::string variable = "ASHLAR_";
  for (const unsigned char c : out.name) variable.push_back(std::isalnum(c) ? static_cast<char>(std::toupper(c)) : '_');
  variable += "_KEY";
  if (std::getenv(variable.c_str()) != nullptr) out.api_key = "env:" + variable;
  return out;
}

}  // namespace ashlar::gateway
