#include "cli/import_litellm.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "base/contains.h"
#include "base/json.h"
#include "cli/litellm_providers.h"
#include "gateway/section.h"
#include "net/url.h"

namespace ashlar::cli {
namespace {

constexpr std::size_t kMostText = 4 << 20, kMostNotes = 5'000, kMostModels = 1'000, kMostMembers = 2'000;
constexpr int kMostMerges = 8;  // of maps into maps: `<<: *defaults`

// So that aliases of aliases are not followed for ever.
struct TooMuch {};

// A text as it may stand in YAML, whatever is in it: JSON's form.
std::string in_quotes(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

// 0.15, not 1.5e-01; at most nine digits behind the point.
std::string decimal(double value) {
  std::string out = fmt::format("{:.9f}", value);
  out.erase(out.find_last_not_of('0') + 1);
  if (out.ends_with('.')) out.pop_back();
  return out;
}

struct Deployment {
  std::string upstream, model;
  double weight = 0;  // 0: unsaid
  int order = 0;
  int most = 0;                         // at once
  std::optional<double> input, output;  // dollars for a million tokens
  double rpm = 0, tpm = 0;
};

struct Group {
  std::string name;
  std::vector<Deployment> deployments;
  std::vector<std::string> aliases;
  std::map<std::string, std::vector<std::string>> fallbacks;  // by cause
};

struct Upstream {
  std::string name, base;                      // the name before a number made it another's
  std::map<std::string, std::string> members;  // as they are written
  std::vector<std::string> models;
  bool lists = false;  // all that it lists, whatever that is
};

class Importer {
 public:
  LitellmImport run(const YAML::Node& root, const std::string& limits_file) {
    for (const auto& [key, value] : members(root, "the file")) {
      if (key == "model_list")
        models_ = value;
      else if (key == "router_settings")
        router_ = value;
      else if (key == "litellm_settings")
        module_ = value;
      else if (key == "general_settings")
        general_ = value;
      else if (key == "environment_variables")
        environment(value);
      else
        note(value, key, "not supported");
    }
    // Timeouts and retries of all are known before the deployments are made.
    settings();
    models();
    for (auto& [cause, list] : fallbacks_)
      for (const YAML::Node& each : list) fallbacks(cause, each);
    for (const YAML::Node& each : aliases_) aliases(each);
    LitellmImport out;
    out.limits = write_limits();
    out.config = write(out.limits.empty() ? "" : limits_file);
    if (!out.limits.empty() && limits_file.empty())
      note_line(0, "rpm, tpm, input_cost_per_token", "limits and prices stand in a file of their own: use --out");
    out.notes = std::move(notes_);
    std::ranges::sort(out.notes, {},
                      [](const LitellmImport::Note& note) { return std::tie(note.line, note.key, note.why); });
    return out;
  }

 private:
  using Members = std::vector<std::pair<std::string, YAML::Node>>;

  void note(const YAML::Node& at, std::string key, std::string why) {
    note_line(at.Mark().line + 1, std::move(key), std::move(why));
  }
  void note_line(int line, std::string key, std::string why) {
    if (notes_.size() >= kMostNotes) throw TooMuch();
    if (key.size() > 200) key.resize(200);
    notes_.push_back({line, std::move(key), std::move(why)});
  }

  // Of a map, those that it merges included; its own come first.
  Members members(const YAML::Node& node, const std::string& what, int depth = 0) {
    Members out;
    if (!node.IsDefined() || node.IsNull()) return out;
    if (!node.IsMap()) {
      note(node, what, "should be a map");
      return out;
    }
    std::vector<YAML::Node> merged;
    for (const auto& entry : node) {
      if (++members_read_ > 200 * kMostMembers || out.size() > kMostMembers) throw TooMuch();
      if (!entry.first.IsScalar()) {
        note(entry.first, what, "has a key that is no word");
      } else if (entry.first.Scalar() == "<<") {
        if (entry.second.IsSequence())
          for (const auto& each : entry.second) merged.push_back(each);
        else
          merged.push_back(entry.second);
      } else {
        out.emplace_back(entry.first.Scalar(), entry.second);
      }
    }
    if (depth >= kMostMerges) return out;
    for (const YAML::Node& each : merged)
      for (auto& member : members(each, what, depth + 1))
        if (!contains(out, member.first, &Members::value_type::first)) out.push_back(std::move(member));
    return out;
  }

  // nullopt, and a note: not that.
  std::optional<std::string> text(const YAML::Node& node, const std::string& key) {
    if (node.IsScalar() && node.Scalar().size() <= 4096) return node.Scalar();
    note(node, key, "should be a text");
    return std::nullopt;
  }
  std::optional<double> number(const YAML::Node& node, const std::string& key, double low, double high) {
    double value = 0;
    if (node.IsScalar() && YAML::convert<double>::decode(node, value) && value >= low && value <= high) return value;
    note(node, key, fmt::format("should be a number from {} to {}", low, high));
    return std::nullopt;
  }
  // Short enough to become a part of another name.
  static bool is_model_name(const std::string& name) { return gateway::is_config_name(name) && name.size() <= 180; }

  std::optional<bool> flag(const YAML::Node& node, const std::string& key) {
    bool value = false;
    if (node.IsScalar() && YAML::convert<bool>::decode(node, value)) return value;
    note(node, key, "should be true or false");
    return std::nullopt;
  }
  std::vector<std::string> words(const YAML::Node& node, const std::string& key) {
    std::vector<std::string> out;
    if (node.IsScalar())
      out.push_back(node.Scalar());
    else if (!node.IsSequence() || node.size() > kMostModels)
      note(node, key, "should be a list of names");
    else
      for (const auto& each : node) {
        if (++members_read_ > 200 * kMostMembers) throw TooMuch();
        if (each.IsScalar())
          out.push_back(each.Scalar());
        else
          note(each, key, "should be a name");
      }
    return out;
  }

  // "os.environ/X" of a text that may be a secret.
  static std::optional<std::string> variable(const std::string& value) {
    constexpr std::string_view kPrefix = "os.environ/";
    if (!value.starts_with(kPrefix)) return std::nullopt;
    return value.substr(kPrefix.size());
  }

  // --- the three sections of settings

  void settings() {
    for (const auto& [section, node] : {std::pair("litellm_settings", module_), {"router_settings", router_}})
      for (const auto& [key, value] : members(node, section)) setting(fmt::format("{}.{}", section, key), key, value);
    for (const auto& [key, value] : members(general_, "general_settings"))
      general("general_settings." + key, key, value);
    if (redis_host_ && redis_password_)
      note(*redis_host_, "router_settings.redis_password", "give --counters redis://:PASSWORD@HOST:PORT yourself");
    else if (redis_host_)
      redis(*redis_host_);
  }

  void redis(const YAML::Node& node) {
    const auto host = text(node, "router_settings.redis_host");
    if (!host) return;
    if (variable(*host)) return note(node, "router_settings.redis_host", "give --counters redis://HOST:PORT yourself");
    options_["counters"] = in_quotes(fmt::format("redis://{}:{}", *host, redis_port_));
  }

  void setting(const std::string& path, const std::string& key, const YAML::Node& value) {
    static const std::map<std::string, std::string, std::less<>> kCauses = {
        {"fallbacks", "error"}, {"context_window_fallbacks", "context"}, {"content_policy_fallbacks", "policy"}};
    if (const auto cause = kCauses.find(key); cause != kCauses.end()) {
      fallbacks_[cause->second].push_back(value);
    } else if (key == "default_fallbacks") {
      default_fallbacks_ = words(value, path);
    } else if (key == "routing_strategy") {
      strategy(path, value);
    } else if (key == "num_retries") {
      if (const auto retries = number(value, path, 0, 1000)) attempts_ = attempts_of(value, path, *retries);
    } else if (key == "timeout" || key == "request_timeout") {
      if (const auto seconds = number(value, path, 0, 1e6)) timeout_ = *seconds;
    } else if (key == "stream_timeout") {
      if (const auto seconds = number(value, path, 0, 1e6)) first_token_ = *seconds;
    } else if (key == "model_group_alias") {
      aliases_.push_back(value);
    } else if (key == "set_verbose") {
      if (flag(value, path).value_or(false)) options_["log_level"] = "debug";
    } else if (key == "json_logs") {
      if (flag(value, path).value_or(false)) options_["log_format"] = "json";
    } else if (key == "redis_host") {
      redis_host_ = value;
    } else if (key == "redis_port") {
      if (const auto port = number(value, path, 1, 65535)) redis_port_ = static_cast<int>(*port);
    } else if (key == "redis_password") {
      redis_password_ = true;
    } else if (key == "drop_params") {
      note(value, path, "not supported: what an upstream cannot be asked is refused, or handed on as it is");
    } else if (key == "allowed_fails" || key == "cooldown_time" || key == "disable_cooldowns") {
      note(value, path, "not supported: breakers open and close by their own triggers");
    } else if (key == "cache" || key == "cache_params") {
      note(value, path, "not supported: routes keep equal answers in memory by themselves");
    } else if (key == "enable_pre_call_checks") {
      note(value, path, "not needed: a deployment with a `context` gets no longer prompts");
    } else {
      note(value, path, "not supported");
    }
  }

  void general(const std::string& path, const std::string& key, const YAML::Node& value) {
    if (key == "master_key") {
      const auto secret = text(value, path);
      if (!secret) return;
      const bool plain = !secret->empty() && secret->size() <= 512 &&
                         std::ranges::all_of(*secret, [](char c) { return c > ' ' && c < 0x7f; });
      if (const auto name = variable(*secret))
        note(value, path, fmt::format("start the server with ASHLAR_API_KEY=\"${}\"", *name));
      else if (plain)
        options_["api_key"] = in_quotes(*secret);
      else
        note(value, path, "is no key that can be sent");
    } else if (key == "database_url") {
      note(value, path, "not taken: keys and accounts are kept in a database of our own, --database");
    } else if (key == "global_max_parallel_requests") {
      if (const auto most = number(value, path, 1, 1e6)) seats_ = static_cast<int>(*most);
    } else {
      note(value, path, "not supported");
    }
  }

  void environment(const YAML::Node& node) {
    for (const auto& [key, value] : members(node, "environment_variables"))
      note(value, "environment_variables." + key, "set it where the server is started");
  }

  void strategy(const std::string& path, const YAML::Node& value) {
    static const std::map<std::string, std::string, std::less<>> kStrategies = {
        {"simple-shuffle", "weighted"},
        {"least-busy", "least-outstanding"},
        {"usage-based-routing", "least-outstanding"},
        {"usage-based-routing-v2", "least-outstanding"},
        {"latency-based-routing", "latency"},
        {"cost-based-routing", "cheapest"}};
    const auto said = text(value, path);
    if (!said) return;
    const auto ours = kStrategies.find(*said);
    if (ours == kStrategies.end()) return note(value, path, fmt::format("'{}' is not supported", said->substr(0, 60)));
    strategy_ = ours->second;
    if (said->starts_with("usage-based"))
      note(value, path, "'least-outstanding' is the nearest: tokens under way, not those of the last minute");
  }

  int attempts_of(const YAML::Node& at, const std::string& path, double retries) {
    if (retries > 9) note(at, path, "at most 10 attempts are made");
    return static_cast<int>(std::min(retries, 9.0)) + 1;
  }

  // --- models

  void models() {
    if (!models_.IsDefined() || models_.IsNull()) return;
    if (!models_.IsSequence() || models_.size() > kMostModels)
      return note(models_, "model_list", fmt::format("should be a list of at most {} models", kMostModels));
    for (const auto& each : models_) model(each);
  }

  void model(const YAML::Node& node) {
    std::string name;
    Members params, info;
    for (const auto& [key, value] : members(node, "model_list")) {
      if (key == "model_name")
        name = text(value, "model_name").value_or("");
      else if (key == "litellm_params")
        params = members(value, key);
      else if (key == "model_info")
        info = members(value, key);
      else
        note(value, "model_list." + key, "not supported");
    }
    const std::string pattern = name.ends_with("/*") ? name.substr(0, name.size() - 2) : "";
    if (!is_model_name(name) || name.find("@order-") != name.npos || (pattern.empty() && name.find('*') != name.npos))
      return note(node, "model_name", "left out: a name should be a word without blanks and '*'");
    Deployment out;
    Upstream up;
    std::string theirs, provider;
    Texts given;
    for (const auto& [key, value] : params) param(key, value, given, out, up);
    for (const auto& [key, value] : info) model_info(key, value, out);
    const auto said = given.find("model");
    if (said == given.end()) return note(node, "litellm_params.model", "left out: it names no model");
    if (!place(node, said->second, given, up, theirs)) return;
    if (!pattern.empty() || theirs == "*") {
      if (theirs != "*" || pattern.empty() || pattern != up.base)
        return note(node, "model_name",
                    "left out: a pattern is supported as PROVIDER/* alone, for all that PROVIDER lists");
      up.lists = true;
      upstream(std::move(up), "");
      return;
    }
    if (!is_model_name(theirs)) return note(node, "litellm_params.model", "left out: it is no model's name");
    out.upstream = upstream(std::move(up), theirs);
    out.model = theirs;
    auto group = std::ranges::find(groups_, name, &Group::name);
    if (group == groups_.end())
      group = groups_.insert(groups_.end(), Group{.name = name, .deployments = {}, .aliases = {}, .fallbacks = {}});
    group->deployments.push_back(std::move(out));
  }

  using Texts = std::map<std::string, std::string>;

  void param(const std::string& key, const YAML::Node& value, Texts& given, Deployment& out, Upstream& up) {
    static const std::set<std::string, std::less<>> kTexts = {"model",
                                                              "api_base",
                                                              "base_url",
                                                              "api_key",
                                                              "api_version",
                                                              "organization",
                                                              "aws_region_name",
                                                              "aws_access_key_id",
                                                              "aws_secret_access_key",
                                                              "aws_session_token",
                                                              "custom_llm_provider"};
    const std::string path = "litellm_params." + key;
    if (kTexts.contains(key)) {
      if (auto said = text(value, path)) given[key] = std::move(*said);
    } else if (key == "weight") {
      out.weight = number(value, path, 0, 1e6).value_or(0);
    } else if (key == "order") {
      out.order = static_cast<int>(number(value, path, 0, 1000).value_or(0));
    } else if (key == "rpm") {
      out.rpm = number(value, path, 1, 1e12).value_or(0);
    } else if (key == "tpm") {
      out.tpm = number(value, path, 1, 1e12).value_or(0);
    } else if (key == "max_parallel_requests") {
      out.most = static_cast<int>(number(value, path, 1, 1e6).value_or(0));
    } else if (key == "timeout" || key == "stream_timeout") {
      if (const auto seconds = number(value, path, 0, 1e6))
        up.members[key == "timeout" ? "total_timeout" : "first_token_timeout"] = milliseconds(*seconds);
    } else if (key == "max_retries" || key == "num_retries") {
      if (const auto retries = number(value, path, 0, 1000))
        up.members["max_attempts"] = std::to_string(attempts_of(value, path, *retries));
    } else if (key == "input_cost_per_token" || key == "output_cost_per_token") {
      price(value, path, key.starts_with("input") ? out.input : out.output);
    } else if (key == "extra_headers") {
      for (const auto& [name, header] : members(value, path))
        note(header, path + "." + name, "not taken: write it into the upstream's `headers`");
    } else {
      note(value, path, "not supported");
    }
  }

  void model_info(const std::string& key, const YAML::Node& value, Deployment& out) {
    const std::string path = "model_info." + key;
    if (key == "input_cost_per_token" || key == "output_cost_per_token")
      price(value, path, key.starts_with("input") ? out.input : out.output);
    else if (key == "mode") {
      const std::string mode = text(value, path).value_or("");
      if (mode != "chat" && mode != "completion" && mode != "embedding")
        note(value, path, fmt::format("'{}' is not supported", mode.substr(0, 40)));
    } else if (key != "id" && key != "description")
      note(value, path, "not supported");
  }

  void price(const YAML::Node& value, const std::string& path, std::optional<double>& out) {
    if (const auto dollars = number(value, path, 0, 1)) out = *dollars * 1e6;
  }

  static std::string milliseconds(double seconds) { return fmt::format("{}ms", std::llround(seconds * 1000)); }

  // Where the model is, and what it is called there.
  bool place(const YAML::Node& node, const std::string& said, const Texts& given, Upstream& up, std::string& theirs) {
    const auto get = [&](const char* key) {
      const auto found = given.find(key);
      return found == given.end() ? std::string() : found->second;
    };
    std::string url = get("api_base").empty() ? get("base_url") : get("api_base");
    const LitellmPlace at = litellm_place(said, get("custom_llm_provider"), !url.empty());
    if (at.kind.empty()) {
      note(node, "litellm_params.model",
           fmt::format("left out: '{}' has a provider that is not known, and no api_base", said.substr(0, 100)));
      return false;
    }
    if (!at.known)
      note(node, "litellm_params.model", "its provider is not known: taken as an OpenAI-compatible server");
    theirs = at.model;
    up.base = at.provider;
    up.members["kind"] = at.kind;
    if (const auto name = variable(url)) {
      note(node, "litellm_params.api_base",
           fmt::format("left out: write the value of {} as the upstream's `url`", *name));
      return false;
    }
    if (url.empty()) url = at.url;
    if (!url.empty()) {
      const auto parsed = net::parse_url(url);
      if (!parsed) {
        note(node, "litellm_params.api_base", "left out: " + parsed.error().message);
        return false;
      }
      up.members["url"] = in_quotes(url);
      // Whoever wrote it meant it; public names need no leave.
      if (url != at.url && (!parsed->tls || parsed->host.find('.') == parsed->host.npos))
        up.members["allow_private"] = "true";
    } else if (at.kind == "azure") {
      note(node, "litellm_params.api_base", "left out: an azure model needs its api_base");
      return false;
    }
    if (!get("api_version").empty() && (at.kind == "azure" || at.kind == "anthropic"))
      up.members["api_version"] = in_quotes(get("api_version"));
    if (!get("organization").empty())
      up.members["headers"] = fmt::format("{{openai-organization: {}}}", in_quotes(get("organization")));
    if (at.kind == "bedrock") {
      std::string region = get("aws_region_name");
      if (region.empty() || variable(region)) {
        note(node, "litellm_params.aws_region_name", "us-east-1 was written: change it where it is another");
        region = "us-east-1";
      }
      up.members["region"] = in_quotes(region);
      secret(node, "aws_access_key_id", get("aws_access_key_id"), "access_key", up);
      secret(node, "aws_secret_access_key", get("aws_secret_access_key"), "secret_key", up);
      secret(node, "aws_session_token", get("aws_session_token"), "session_token", up);
      return true;
    }
    std::string key = get("api_key");
    if (key.empty() && !at.key_variable.empty() && (get("api_base").empty() && get("base_url").empty()))
      key = "os.environ/" + at.key_variable;
    secret(node, "api_key", key, "api_key", up);
    return true;
  }

  // Secrets are referred to, never written.
  void secret(const YAML::Node& node, const std::string& key, const std::string& value, const std::string& ours,
              Upstream& up) {
    static const std::set<std::string, std::less<>> kNone = {"",     "none",     "null",     "dummy",      "empty",
                                                             "fake", "fake-key", "anything", "not-needed", "no-key"};
    std::string lower = value;
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
    if (kNone.contains(lower)) return;
    if (const auto name = variable(value); name && is_variable(*name)) {
      up.members[ours] = in_quotes("env:" + *name);
      return;
    }
    const std::string name = fmt::format("{}_{}_{}", environment_name(up.base), environment_name(ours), ++secrets_);
    note(node, "litellm_params." + key,
         fmt::format("a secret should not stand in a file: put it into the environment as {}", name));
    up.members[ours] = in_quotes("env:" + name);
  }

  static bool is_variable(const std::string& name) {
    return !name.empty() && std::ranges::all_of(name, [](unsigned char c) { return std::isalnum(c) || c == '_'; });
  }

  static std::string environment_name(const std::string& text) {
    std::string out;
    for (const unsigned char c : text) out.push_back(std::isalnum(c) ? static_cast<char>(std::toupper(c)) : '_');
    return out;
  }

  // The name of the upstream that is like `wanted`, which serves `model` too.
  std::string upstream(Upstream wanted, const std::string& model) {
    if (timeout_ > 0) wanted.members.try_emplace("total_timeout", milliseconds(timeout_));
    if (first_token_ > 0) wanted.members.try_emplace("first_token_timeout", milliseconds(first_token_));
    if (attempts_ > 0) wanted.members.try_emplace("max_attempts", std::to_string(attempts_));
    auto found = std::ranges::find_if(upstreams_, [&](const Upstream& each) {
      return each.base == wanted.base && each.lists == wanted.lists && each.members == wanted.members;
    });
    if (found == upstreams_.end()) {
      int number = 1;
      wanted.name = wanted.base;
      while (contains(upstreams_, wanted.name, &Upstream::name))
        wanted.name = fmt::format("{}-{}", wanted.base, ++number);
      found = upstreams_.insert(upstreams_.end(), std::move(wanted));
    }
    if (!model.empty() && !contains(found->models, model)) found->models.push_back(model);
    return found->name;
  }

  // --- fallbacks and aliases, once all groups are known

  Group* group(const std::string& name) {
    const auto found = std::ranges::find(groups_, name, &Group::name);
    return found == groups_.end() ? nullptr : &*found;
  }

  // [{name: [others]}], or {name: [others]}.
  void fallbacks(const std::string& cause, const YAML::Node& node) {
    if (node.IsSequence() && node.size() <= kMostModels) {
      for (const auto& each : node)
        for (const auto& [name, list] : members(each, "fallbacks")) fallback(cause, name, list);
    } else {
      for (const auto& [name, list] : members(node, "fallbacks")) fallback(cause, name, list);
    }
  }

  void fallback(const std::string& cause, const std::string& name, const YAML::Node& list) {
    const std::vector<std::string> to = words(list, "fallbacks." + name);
    if (name == "*") {
      default_fallbacks_.insert(default_fallbacks_.end(), to.begin(), to.end());
      return;
    }
    Group* from = group(name);
    if (from == nullptr) return note(list, "fallbacks." + name, "left out: no such model");
    for (const std::string& each : to) {
      if (group(each) == nullptr)
        note(list, "fallbacks." + name, fmt::format("'{}' left out: no such model", each.substr(0, 100)));
      else if (each != name && !contains(from->fallbacks[cause], each))
        from->fallbacks[cause].push_back(each);
    }
  }

  void aliases(const YAML::Node& node) {
    for (const auto& [alias, value] : members(node, "model_group_alias")) {
      std::string to = value.IsScalar() ? value.Scalar() : "";
      for (const auto& [key, inner] : value.IsMap() ? members(value, "model_group_alias") : Members{})
        if (key == "model")
          to = text(inner, "model_group_alias.model").value_or("");
        else
          note(inner, "model_group_alias." + key, "not supported");
      const bool taken = group(alias) != nullptr || !aliases_seen_.insert(alias).second;
      Group* found = group(to);
      if (found == nullptr || taken || !gateway::is_config_name(alias))
        note(value, "model_group_alias." + alias,
             found == nullptr ? "left out: no such model" : "left out: the name is taken, or none");
      else
        found->aliases.push_back(alias);
    }
  }

  // --- ours

  std::string write(const std::string& limits_file) const {
    std::string out = "# Made of a LiteLLM proxy's configuration.\n";
    for (const auto& [name, value] : options_) out += fmt::format("{}: {}\n", name, value);
    if (!limits_file.empty()) out += fmt::format("limits: {}\n", in_quotes(limits_file));
    if (!upstreams_.empty()) out += "upstreams:\n";
    for (const Upstream& each : upstreams_) {
      out += fmt::format("  - name: {}\n", in_quotes(each.name));
      for (const auto& [name, value] : each.members) out += fmt::format("    {}: {}\n", name, value);
      std::vector<std::string> names;
      for (const std::string& model : each.models) names.push_back(in_quotes(model));
      if (!each.lists) out += fmt::format("    models: [{}]\n", fmt::join(names, ", "));
    }
    if (!groups_.empty()) out += "routes:\n";
    for (const Group& each : groups_) write_group(each, out);
    return out;
  }

  // Those of a higher `order` are a route of their own, which the one before falls back to.
  void write_group(const Group& group, std::string& out) const {
    std::map<int, std::vector<const Deployment*>> orders;
    for (const Deployment& each : group.deployments) orders[each.order].push_back(&each);
    const auto name_of = [&](std::size_t at) {
      return at == 0 ? group.name : fmt::format("{}@order-{}", group.name, at + 1);
    };
    std::size_t at = 0;
    for (const auto& [order, deployments] : orders) {
      out += fmt::format("  - name: {}\n    strategy: {}\n", in_quotes(name_of(at)), strategy_);
      if (at == 0 && !group.aliases.empty()) out += fmt::format("    aliases: [{}]\n", list(group.aliases));
      out += "    deployments:\n";
      std::set<std::string> names;
      for (const Deployment* each : deployments) write_deployment(*each, name_of(at), names, out);
      auto fallbacks = group.fallbacks;
      std::vector<std::string>& error = fallbacks["error"];
      if (error.empty())
        for (const std::string& each : default_fallbacks_)
          if (each != group.name && contains(groups_, each, &Group::name)) error.push_back(each);
      if (at + 1 < orders.size()) error.insert(error.begin(), name_of(at + 1));
      std::vector<std::string> causes;
      for (const auto& [cause, to] : fallbacks)
        if (!to.empty()) causes.push_back(fmt::format("{}: [{}]", cause, list(to)));
      if (!causes.empty()) out += fmt::format("    fallbacks: {{{}}}\n", fmt::join(causes, ", "));
      ++at;
    }
  }

  void write_deployment(const Deployment& each, const std::string& group, std::set<std::string>& names,
                        std::string& out) const {
    const std::string model = each.upstream + "/" + each.model;
    std::string line = "model: " + in_quotes(model);
    // The same model twice in a group: its deployments need names of their own.
    if (!names.insert(model).second) {
      int number = 2;
      while (!names.insert(fmt::format("{}#{}", model, number)).second) ++number;
      line += ", name: " + in_quotes(fmt::format("{}/{}#{}", group, model, number));
    }
    const double weight = each.weight > 0 ? each.weight : each.rpm > 0 ? each.rpm : each.tpm / 1000;
    if (weight > 0 && strategy_ == "weighted") line += ", weight: " + decimal(std::min(weight, 1e6));
    if (each.most > 0) line += fmt::format(", max_concurrent: {}", each.most);
    if (each.input) line += ", input_price: " + decimal(*each.input);
    if (each.output) line += ", output_price: " + decimal(*each.output);
    out += fmt::format("      - {{{}}}\n", line);
  }

  static std::string list(const std::vector<std::string>& names) {
    std::string out;
    for (const std::string& each : names) out += (out.empty() ? "" : ", ") + in_quotes(each);
    return out;
  }

  // A group may use what its deployments may together, if that is said of each; it costs what its dearest does.
  std::string write_limits() {
    std::string limits, prices;
    if (seats_ > 0)
      limits += fmt::format("  - {{scope: global, name: seats, kind: semaphore, capacity: {}}}\n", seats_);
    for (const Group& group : groups_) {
      double rpm = 0, tpm = 0, input = 0, output = 0;
      bool all_rpm = true, all_tpm = true, priced = false;
      for (const Deployment& each : group.deployments) {
        rpm += each.rpm;
        tpm += each.tpm;
        all_rpm = all_rpm && each.rpm > 0;
        all_tpm = all_tpm && each.tpm > 0;
        priced = priced || each.input || each.output;
        input = std::max(input, each.input.value_or(0));
        output = std::max(output, each.output.value_or(0));
      }
      const auto rate = [&](double sum, bool all, const char* name, const char* measure) {
        if (sum <= 0) return;
        if (!all)
          return note_line(0, fmt::format("litellm_params.{}", name),
                           fmt::format("left out for '{}': not all of its deployments say it", group.name));
        limits += fmt::format(
            "  - {{scope: model, who: {}, name: {}, kind: sliding_window, measure: {}, capacity: {}, period: 1m}}\n",
            in_quotes(group.name), name, measure, std::llround(std::min(sum, 1e12)));
      };
      rate(rpm, all_rpm, "rpm", "requests");
      rate(tpm, all_tpm, "tpm", "tokens");
      std::vector<std::string> names = group.aliases;
      names.insert(names.begin(), group.name);
      for (const std::string& name : names)
        if (priced)
          prices += fmt::format("  - {{model: {}, input: \"{}\", output: \"{}\"}}\n", in_quotes(name), decimal(input),
                                decimal(output));
    }
    std::string out;
    if (!limits.empty()) out += "limits:\n" + limits;
    if (!prices.empty()) out += "prices:  # dollars for a million tokens\n" + prices;
    return out;
  }

  YAML::Node models_{YAML::NodeType::Undefined}, router_{YAML::NodeType::Undefined}, module_{YAML::NodeType::Undefined},
      general_{YAML::NodeType::Undefined};
  std::vector<LitellmImport::Note> notes_;
  std::size_t members_read_ = 0;
  std::map<std::string, std::string> options_;
  std::string strategy_ = "weighted";
  double timeout_ = 0, first_token_ = 0;
  int attempts_ = 0, seats_ = 0, redis_port_ = 6379, secrets_ = 0;
  bool redis_password_ = false;
  std::optional<YAML::Node> redis_host_;
  std::map<std::string, std::vector<YAML::Node>> fallbacks_;
  std::vector<std::string> default_fallbacks_;
  std::vector<YAML::Node> aliases_;
  std::set<std::string> aliases_seen_;
  std::vector<Upstream> upstreams_;
  std::vector<Group> groups_;
};

}  // namespace

Result<LitellmImport> import_litellm(const std::string& text, const std::string& limits_file) {
  if (text.size() > kMostText) return Error{Code::too_large, "larger than 4 MiB"};
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap()) return Error{Code::invalid, "line 1: expected `name: value` lines, model_list among them"};
    return Importer().run(root, limits_file);
  } catch (const YAML::Exception& e) {
    return Error{Code::invalid, fmt::format("line {}: {}", e.mark.line + 1, e.msg)};
  } catch (const TooMuch&) {
    return Error{Code::too_large, "it has more in it, aliases followed, than such a file can mean"};
  }
}

}  // namespace ashlar::cli
