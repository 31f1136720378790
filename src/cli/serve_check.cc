#include "cli/serve_check.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>

#include "base/duration.h"
#include "base/options.h"
#include "base/yaml.h"
#include "engine/engine_options.h"
#include "net/url.h"
#include "store/redis/client.h"

namespace ashlar::cli {
namespace {

// "--log-level is ..." is of log_level, "port 99 is ..." of port.
std::string option_of(std::string_view fault) {
  while (fault.starts_with('-')) fault.remove_prefix(1);
  std::string name(fault.substr(0, fault.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-")));
  std::ranges::replace(name, '-', '_');
  return name;
}

// As option_values() has it, of an option that stands in a file.
std::string value_in(const YAML::Node& node) {
  if (!node.IsSequence()) return node.IsScalar() ? node.Scalar() : "";
  std::string out;
  for (const auto& each : node) out += fmt::format("{}:{}", each.Scalar().size(), each.Scalar());
  return out;
}

bool is_origin(std::string_view text) {
  return text.empty() || text == "*" || (text.find("://") != text.npos && !text.ends_with('/'));
}

}  // namespace

std::vector<std::string> wrong_options(const ServeOptions& options) {
  std::vector<std::string> out;
  const auto take = [&](const auto& done, std::string_view option = "") {
    if (!done) out.push_back(std::string(option) + done.error().message);
  };
  take(net::check_options(options.server));
  take(engine::check_options(options.host.engine));
  take(check_options(options.repository));
  take(parse_duration(options.host.keep_alive), "--keep-alive: ");
  if (!options.state.database.empty()) take(store::check_location(options.state.database), "--database: ");
  if (!options.metering.counters.empty()) take(store::parse_redis_url(options.metering.counters), "--counters: ");
  if (!options.metering.budget_webhook.empty()) take(net::parse_url(options.metering.budget_webhook), "--budget-webhook: ");
  if (!is_origin(options.api.cors_origin))
    out.emplace_back("--cors-origin: an origin is SCHEME://HOST or SCHEME://HOST:PORT, without a path, or *");
  return out;
}

std::string with_line(const std::string& fault, ServeOptions options, const std::string& text, const std::string& path) {
  const std::string name = option_of(fault);
  const auto values = option_values(options);
  const auto value = values.find(name);
  if (value == values.end() || path.empty()) return fault;
  FileFaults sound(path), one(path);
  const auto root = load_yaml(text, path, sound);
  if (!root || !root->IsMap()) return fault;
  std::string hyphens = name;
  std::ranges::replace(hyphens, '_', '-');
  for (const std::string& written : {name, hyphens})
    if (const YAML::Node at = (*root)[written]; at.IsDefined() && value_in(at) == value->second) {
      one.add(at, fault);
      return one.text();
    }
  return fault;
}

}  // namespace ashlar::cli
