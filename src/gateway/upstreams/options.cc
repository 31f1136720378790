#include "gateway/upstreams/options.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "base/duration.h"
#include "base/nearest.h"
#include "gateway/upstreams/secrets.h"
#include "gateway/upstreams/wire.h"
#include "net/http_text.h"
#include "net/url.h"

namespace ashlar::gateway {
namespace {

using std::chrono::milliseconds;

constexpr std::uintmax_t kMaxFile = 4 << 20;
constexpr std::size_t kMaxUpstreams = 1000, kMaxModels = 1000, kMaxName = 256;

// Reads the section and gathers what is wrong with it.
class Section {
 public:
  explicit Section(std::string path) : path_(std::move(path)) {}

  std::vector<UpstreamOptions> read(const YAML::Node& list);
  void fail(const YAML::Node& at, std::string_view why) {
    faults_ += fmt::format("{}{}:{}: {}", faults_.empty() ? "" : "\n", path_, at.Mark().line + 1, why);
  }
  const std::string& faults() const { return faults_; }

 private:
  using Read = std::function<void(const YAML::Node&)>;

  UpstreamOptions upstream(const YAML::Node& node);
  std::map<std::string, Read, std::less<>> members(UpstreamOptions& out);
  void models(const YAML::Node& node, UpstreamOptions& out);
  void headers(const YAML::Node& node, UpstreamOptions& out);
  void check(const YAML::Node& node, const UpstreamOptions& out);
  // Every key of a map by its own reader; a key that has none, or stands twice, is a fault.
  void each(const YAML::Node& node, const std::map<std::string, Read, std::less<>>& readers, std::string_view of);

  Read text(std::string name, std::string& out) {
    return [this, name, &out](const YAML::Node& node) {
      if (!node.IsScalar() || node.Scalar().empty() || node.Scalar().size() > 4096)
        return fail(node, fmt::format("'{}' should be a text", name));
      out = node.Scalar();
    };
  }
  Read secret(std::string name, std::string& out) {
    return [this, name, &out](const YAML::Node& node) {
      text(name, out)(node);
      if (auto fine = check_secret(out); !out.empty() && !fine)
        fail(node, fmt::format("'{}': {}", name, fine.error().message));
    };
  }
  Read duration(std::string name, milliseconds& out) {
    return [this, name, &out](const YAML::Node& node) {
      const auto parsed = node.IsScalar() ? parse_duration(node.Scalar()) : Error{Code::invalid, ""};
      if (!parsed || parsed->count() < 0)
        return fail(node, fmt::format("'{}' should be a time, as 5s, 250ms or 1m", name));
      out = *parsed;
    };
  }
  Read whole(std::string name, int& out, int low, int high) {
    return [this, name, &out, low, high](const YAML::Node& node) {
      int value = 0;
      if (!node.IsScalar() || !YAML::convert<int>::decode(node, value) || value < low || value > high)
        return fail(node, fmt::format("'{}' should be a whole number from {} to {}", name, low, high));
      out = value;
    };
  }
  Read flag(std::string name, bool& out) {
    return [this, name, &out](const YAML::Node& node) {
      if (!node.IsScalar() || !YAML::convert<bool>::decode(node, out))
        fail(node, fmt::format("'{}' should be true or false", name));
    };
  }

  const std::string path_;
  std::string faults_;
};

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxName &&
         std::ranges::all_of(text, [](unsigned char c) { return c > 0x20 && c != 0x7f && c != '"'; });
}

std::map<std::string, Section::Read, std::less<>> Section::members(UpstreamOptions& out) {
  return {
      {"name", text("name", out.name)},
      {"kind", text("kind", out.kind)},
      {"url", text("url", out.url)},
      {"models", [this, &out](const YAML::Node& node) { models(node, out); }},
      {"headers", [this, &out](const YAML::Node& node) { headers(node, out); }},
      {"api_key", secret("api_key", out.api_key)},
      {"access_key", secret("access_key", out.access_key)},
      {"secret_key", secret("secret_key", out.secret_key)},
      {"session_token", secret("session_token", out.session_token)},
      {"api_version", text("api_version", out.api_version)},
      {"region", text("region", out.region)},
      {"connect_timeout", duration("connect_timeout", out.connect_timeout)},
      {"first_token_timeout", duration("first_token_timeout", out.first_token_timeout)},
      {"between_tokens_timeout", duration("between_tokens_timeout", out.between_tokens_timeout)},
      {"total_timeout", duration("total_timeout", out.total_timeout)},
      {"max_attempts", whole("max_attempts", out.max_attempts, 1, 10)},
      {"retry_base", duration("retry_base", out.retry_base)},
      {"retry_cap", duration("retry_cap", out.retry_cap)},
      {"retry_budget",
       [this, &out](const YAML::Node& node) {
         double value = 0;
         if (!node.IsScalar() || !YAML::convert<double>::decode(node, value) || !(value >= 0 && value <= 1))
           return fail(node, "'retry_budget' should be a share from 0 to 1");
         out.retry_budget = value;
       }},
      {"retry_floor", whole("retry_floor", out.retry_floor, 0, 1000)},
      {"hedge_after", duration("hedge_after", out.hedge_after)},
      {"health_interval", duration("health_interval", out.health_interval)},
      {"health_path", text("health_path", out.health_path)},
      {"health_failures", whole("health_failures", out.health_failures, 1, 100)},
      {"allow_private", flag("allow_private", out.allow_private)},
      {"stream", flag("stream", out.stream)},
      {"max_answer",
       [this, &out](const YAML::Node& node) {
         const auto parsed = node.IsScalar() ? parse_bytes(node.Scalar()) : Error{Code::invalid, ""};
         if (!parsed || parsed->count < 1024) return fail(node, "'max_answer' should be a size of at least 1KiB");
         out.max_answer = *parsed;
       }},
      {"max_tokens", whole("max_tokens", out.max_tokens, 1, 100'000'000)},
      {"context", whole("context", out.context, 1, 100'000'000)},
      {"tls_ca", text("tls_ca", out.tls_ca)},
      {"tls_verify", flag("tls_verify", out.tls_verify)},
  };
}

void Section::each(const YAML::Node& node, const std::map<std::string, Read, std::less<>>& readers,
                   std::string_view of) {
  std::set<std::string> seen;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) {
      fail(entry.first, "a key should be a word");
      continue;
    }
    const std::string key = entry.first.Scalar();
    const auto reader = readers.find(key);
    if (!seen.insert(key).second) {
      fail(entry.first, fmt::format("'{}' stands twice", key));
    } else if (reader != readers.end()) {
      reader->second(entry.second);
    } else {
      std::vector<std::string> known;
      for (const auto& [name, unused] : readers) known.push_back(name);
      fail(entry.first, fmt::format("{} has no '{}'{}", of, key, did_you_mean(key, known)));
    }
  }
}

void Section::models(const YAML::Node& node, UpstreamOptions& out) {
  if (!node.IsSequence() || node.size() > kMaxModels) return fail(node, "'models' should be a list");
  for (const auto& item : node) {
    UpstreamModel model;
    if (item.IsScalar()) {
      model.name = model.model = item.Scalar();
    } else if (item.IsMap()) {
      each(item, {{"name", text("name", model.name)}, {"model", text("model", model.model)}}, "a model");
      if (model.model.empty()) model.model = model.name;
      if (model.name.empty()) model.name = model.model;
    }
    if (!is_name(model.name) || !is_name(model.model))
      fail(item, "a model should be its name, or {name: as it is served, model: as the upstream calls it}");
    else if (std::ranges::find(out.models, model.name, &UpstreamModel::name) != out.models.end())
      fail(item, fmt::format("the model '{}' stands twice", model.name));
    out.models.push_back(std::move(model));
  }
}

void Section::headers(const YAML::Node& node, UpstreamOptions& out) {
  if (!node.IsMap()) return fail(node, "'headers' should be a map of names to values");
  for (const auto& entry : node) {
    const std::string name = entry.first.IsScalar() ? net::lower(entry.first.Scalar()) : "";
    if (name.empty() || name == "host" || !net::may_send(name) || !entry.second.IsScalar()) {
      fail(entry.first, "a header should be a name that may be sent, and its text");
      continue;
    }
    const bool secret = name == "authorization" || name.find("key") != name.npos || name.find("token") != name.npos;
    if (auto fine = check_secret(entry.second.Scalar()); secret && !fine)
      fail(entry.second, fmt::format("'{}': {}", name, fine.error().message));
    out.headers.emplace_back(name, entry.second.Scalar());
  }
}

void Section::check(const YAML::Node& node, const UpstreamOptions& out) {
  if (!is_name(out.name) || out.name.find('/') != out.name.npos)
    fail(node, "an upstream needs a 'name', a word without '/'");
  const auto kinds = upstream_kinds();
  if (std::ranges::find(kinds, out.kind) == kinds.end())
    fail(node["kind"], fmt::format("no kind of upstream is called '{}'{}; there are {}", out.kind,
                                   did_you_mean(out.kind, kinds), fmt::join(kinds, ", ")));
  else if (out.url.empty() && default_url(out).empty())
    fail(node, fmt::format("the upstream '{}' needs a 'url'", out.name));
  if (!out.url.empty())
    if (auto url = net::parse_url(out.url); !url) fail(node["url"], url.error().message);
  if ((out.kind == "azure" || out.kind == "bedrock" || out.kind == "dashscope") && out.models.empty())
    fail(node, fmt::format("an upstream of kind {} needs its 'models'{}: it does not list them", out.kind,
                           out.kind == "azure" ? ", the names of its deployments" : ""));
  if (out.kind == "bedrock" && out.region.empty()) fail(node, "an upstream of kind bedrock needs its 'region'");
}

UpstreamOptions Section::upstream(const YAML::Node& node) {
  UpstreamOptions out;
  if (!node.IsMap()) {
    fail(node, "an upstream should be a map, with a name and a url");
    return out;
  }
  each(node, members(out), "an upstream");
  check(node, out);
  return out;
}

std::vector<UpstreamOptions> Section::read(const YAML::Node& list) {
  std::vector<UpstreamOptions> out;
  if (list.IsNull()) return out;
  if (!list.IsSequence() || list.size() > kMaxUpstreams) {
    fail(list, "'upstreams' should be a list");
    return out;
  }
  for (const auto& item : list) {
    UpstreamOptions next = upstream(item);
    if (!next.name.empty() && std::ranges::find(out, next.name, &UpstreamOptions::name) != out.end())
      fail(item, fmt::format("two upstreams are called '{}'", next.name));
    out.push_back(std::move(next));
  }
  return out;
}

}  // namespace

Result<std::vector<UpstreamOptions>> parse_upstreams(const std::string& text, const std::string& path) {
  Section section(path);
  std::vector<UpstreamOptions> out;
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return out;
    if (!root.IsMap()) return Error{Code::invalid, fmt::format("{}: expected `name: value` lines", path)};
    if (const YAML::Node list = root["upstreams"]; list.IsDefined()) out = section.read(list);
  } catch (const YAML::Exception& e) {
    return Error{Code::invalid, fmt::format("{}:{}: {}", path, e.mark.line + 1, e.msg)};
  }
  if (!section.faults().empty()) return Error{Code::invalid, section.faults()};
  return out;
}

Result<std::vector<UpstreamOptions>> read_upstreams(const std::string& path) {
  std::error_code failed;
  const auto size = std::filesystem::file_size(path, failed);
  if (failed) return Error{Code::not_found, fmt::format("{}: no such configuration file", path)};
  if (size > kMaxFile) return Error{Code::too_large, fmt::format("{}: larger than 4 MiB", path)};
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return parse_upstreams(text.str(), path);
}

Result<UpstreamOptions> parse_upstream_flag(std::string_view text) {
  const auto equals = text.find('=');
  if (equals == text.npos || equals == 0)
    return Error{Code::invalid, fmt::format("--upstream: '{}' is not NAME=URL", text)};
  UpstreamOptions out{
      .name = std::string(text.substr(0, equals)), .url = std::string(text.substr(equals + 1)), .allow_private = true};
  if (!is_name(out.name) || out.name.find('/') != out.name.npos)
    return Error{Code::invalid, fmt::format("--upstream: '{}' is no name", out.name)};
  TRY(net::parse_url(out.url));
  std::string variable = "ASHLAR_";
  for (const unsigned char c : out.name) variable.push_back(std::isalnum(c) ? static_cast<char>(std::toupper(c)) : '_');
  variable += "_KEY";
  if (std::getenv(variable.c_str()) != nullptr) out.api_key = "env:" + variable;
  return out;
}

}  // namespace ashlar::gateway
