// The three sections of settings.
#include "gateway/litellm/importer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "store/redis/client.h"

namespace ashlar::gateway {

void LitellmImporter::settings() {
  for (const auto& [section, node] : {std::pair("litellm_settings", module_), {"router_settings", router_}})
    for (const auto& [key, value] : read_.members(node, section))
      setting(fmt::format("{}.{}", section, key), key, value);
  for (const auto& [key, value] : read_.members(general_, "general_settings"))
    general("general_settings." + key, key, value);
  if (redis_host_ && redis_password_)
    note(*redis_host_, "router_settings.redis_password", "give --counters redis://:PASSWORD@HOST:PORT yourself");
  else if (redis_host_)
    redis(*redis_host_);
}

void LitellmImporter::redis(const YAML::Node& node) {
  const auto host = read_.text(node, "router_settings.redis_host");
  if (!host) return;
  if (litellm_variable(*host))
    return note(node, "router_settings.redis_host", "give --counters redis://HOST:PORT yourself");
  const std::string url = fmt::format("redis://{}:{}", *host, redis_port_);
  if (host->find_first_of("/@ ") != host->npos || !store::parse_redis_url(url))
    return note(node, "router_settings.redis_host", "left out: it is no host's name or address");
  made_.options["counters"] = in_quotes(url);
}

void LitellmImporter::setting(const std::string& path, const std::string& key, const YAML::Node& value) {
  static const std::map<std::string, std::string, std::less<>> kCauses = {
      {"fallbacks", "error"}, {"context_window_fallbacks", "context"}, {"content_policy_fallbacks", "policy"}};
  if (const auto cause = kCauses.find(key); cause != kCauses.end()) {
    fallbacks_[cause->second].push_back(value);
  } else if (key == "default_fallbacks") {
    made_.default_fallbacks = read_.words(value, path);
  } else if (key == "routing_strategy") {
    strategy(path, value);
  } else if (key == "num_retries") {
    if (const auto retries = read_.number(value, path, 0, 1000)) attempts_ = attempts_of(value, path, *retries);
  } else if (key == "timeout" || key == "request_timeout") {
    if (const auto seconds = read_.number(value, path, 0, 1e6)) timeout_ = *seconds;
  } else if (key == "stream_timeout") {
    if (const auto seconds = read_.number(value, path, 0, 1e6)) first_token_ = *seconds;
  } else if (key == "model_group_alias") {
    aliases_.push_back(value);
  } else if (key == "set_verbose") {
    if (read_.flag(value, path).value_or(false)) made_.options["log_level"] = "debug";
  } else if (key == "json_logs") {
    if (read_.flag(value, path).value_or(false)) made_.options["log_format"] = "json";
  } else if (key == "redis_host") {
    redis_host_ = value;
  } else if (key == "redis_port") {
    if (const auto port = read_.number(value, path, 1, 65535)) redis_port_ = static_cast<int>(*port);
  } else if (key == "redis_password") {
    redis_password_ = true;
  } else if (key == "drop_params") {
    note(value, path, "not supported: what an upstream cannot be asked is refused, or handed on as it is");
  } else if (key == "allowed_fails" || key == "cooldown_time" || key == "disable_cooldowns") {
    note(value, path, "not supported: breakers open and close by their own triggers");
  } else if (key == "cache") {
    if (!read_.flag(value, path).value_or(false)) return;
    made_.options["response_cache"] = "256MiB";
    note(value, path, "kept in memory, and only what can be repeated: of temperature 0, or with a seed");
  } else if (key == "cache_params") {
    cache_params(path, value);
  } else if (key == "enable_pre_call_checks") {
    note(value, path, "not needed: a deployment with a `context` gets no longer prompts");
  } else {
    note(value, path, "not supported");
  }
}

void LitellmImporter::cache_params(const std::string& path, const YAML::Node& value) {
  for (const auto& [key, each] : read_.members(value, path)) {
    const std::string at = path + "." + key;
    if (key == "ttl") {
      if (const auto seconds = read_.number(each, at, 1, 1e6))
        made_.options["response_cache_ttl"] = std::to_string(std::llround(*seconds * 1000));
    } else if (key != "type" || read_.text(each, at).value_or("") != "local") {
      note(each, at, "not supported: answers are kept in memory");
    }
  }
}

void LitellmImporter::general(const std::string& path, const std::string& key, const YAML::Node& value) {
  if (key == "master_key") {
    const auto secret = read_.text(value, path);
    if (!secret) return;
    const bool plain = !secret->empty() && secret->size() <= 512 &&
                       std::ranges::all_of(*secret, [](char c) { return c > ' ' && c < 0x7f; });
    if (const auto name = litellm_variable(*secret))
      note(value, path, fmt::format("start the server with ASHLAR_API_KEY=\"${}\"", *name));
    else if (plain)
      made_.options["api_key"] = in_quotes(*secret);
    else
      note(value, path, "is no key that can be sent");
  } else if (key == "database_url") {
    note(value, path, "not taken: keys and accounts are kept in a database of our own, --database");
  } else if (key == "global_max_parallel_requests") {
    if (const auto most = read_.number(value, path, 1, 1e6)) made_.seats = static_cast<int>(*most);
  } else {
    note(value, path, "not supported");
  }
}

void LitellmImporter::environment(const YAML::Node& node) {
  for (const auto& [key, value] : read_.members(node, "environment_variables"))
    note(value, "environment_variables." + key, "set it where the server is started");
}

void LitellmImporter::strategy(const std::string& path, const YAML::Node& value) {
  static const std::map<std::string, std::string, std::less<>> kStrategies = {
      {"simple-shuffle", "weighted"},
      {"least-busy", "least-outstanding"},
      {"usage-based-routing", "least-outstanding"},
      {"usage-based-routing-v2", "least-outstanding"},
      {"latency-based-routing", "latency"},
      {"cost-based-routing", "cheapest"}};
  const auto said = read_.text(value, path);
  if (!said) return;
  const auto ours = kStrategies.find(*said);
  if (ours == kStrategies.end()) return note(value, path, fmt::format("'{}' is not supported", said->substr(0, 60)));
  made_.strategy = ours->second;
  if (said->starts_with("usage-based"))
    note(value, path, "'least-outstanding' is the nearest: tokens under way, not those of the last minute");
}

int LitellmImporter::attempts_of(const YAML::Node& at, const std::string& path, double retries) {
  if (retries > 9) note(at, path, "at most 10 attempts are made");
  return static_cast<int>(std::min(retries, 9.0)) + 1;
}

}  // namespace ashlar::gateway
