// The list of models, and the upstreams that they stand on.
#include "gateway/litellm/importer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <utility>

#include "base/contains.h"
#include "base/utf8.h"
#include "gateway/litellm/providers.h"
#include "gateway/section.h"
#include "gateway/upstreams/options.h"
#include "net/url.h"

namespace ashlar::gateway {
namespace {

std::string milliseconds(double seconds) { return fmt::format("{}ms", std::llround(seconds * 1000)); }

std::string environment_name(const std::string& text) {
  std::string out;
  for (const unsigned char c : text) out.push_back(std::isalnum(c) ? static_cast<char>(std::toupper(c)) : '_');
  return out;
}

// Short enough to become a part of another name.
bool is_model_name(const std::string& name) {
  return is_config_name(name) && name.size() <= 180 && utf8::is_valid(name);
}

}  // namespace

void LitellmImporter::models() {
  if (!models_.IsDefined() || models_.IsNull()) return;
  if (!models_.IsSequence() || models_.size() > kMostModels)
    return note(models_, "model_list", fmt::format("should be a list of at most {} models", kMostModels));
  for (const auto& each : models_) model(each);
}

void LitellmImporter::model(const YAML::Node& node) {
  std::string name;
  Members params, info;
  for (const auto& [key, value] : read_.members(node, "model_list")) {
    if (key == "model_name")
      name = read_.text(value, "model_name").value_or("");
    else if (key == "litellm_params")
      params = read_.members(value, key);
    else if (key == "model_info")
      info = read_.members(value, key);
    else
      note(value, "model_list." + key, "not supported");
  }
  const std::string pattern = name == "*" ? name : name.ends_with("/*") ? name.substr(0, name.size() - 2) : "";
  if (!is_model_name(name) || name.find("@order-") != name.npos || (pattern.empty() && name.find('*') != name.npos))
    return note(node, "model_name", "left out: a name should be a word without blanks and '*'");
  Deployment out;
  Upstream up;
  std::string theirs, mode;
  Texts given;
  credential(params);
  for (const auto& [key, value] : params) param(key, value, given, out, up);
  for (const auto& [key, value] : info) model_info(key, value, out, mode);
  const auto said = given.find("model");
  if (said == given.end()) return note(node, "litellm_params.model", "left out: it names no model");
  if (!place(node, said->second, given, up, theirs)) return;
  if (!pattern.empty() || theirs == "*") {
    if (theirs != "*" || (pattern != "*" && pattern != up.base))
      return note(node, "model_name",
                  "left out: a pattern is supported as PROVIDER/* or * alone, for all that PROVIDER lists");
    up.lists = true;
    upstream(std::move(up), "");
    return;
  }
  if (!is_model_name(theirs)) return note(node, "litellm_params.model", "left out: it is no model's name");
  // Said, or called so: what makes vectors is seldom said to.
  const bool embeds = mode == "embedding" || (mode.empty() && theirs.find("embed") != theirs.npos);
  auto group = std::ranges::find(made_.groups, name, &Group::name);
  if (group != made_.groups.end() && (group->embeds || embeds))
    return note(node, "model_name", fmt::format("left out: '{}' makes vectors, which come from one place", name));
  out.upstream = upstream(std::move(up), embeds ? "" : theirs);
  out.model = theirs;
  if (group == made_.groups.end())
    group = made_.groups.insert(
        made_.groups.end(), Group{.name = name, .embeds = embeds, .deployments = {}, .aliases = {}, .fallbacks = {}});
  group->deployments.push_back(std::move(out));
}

// What a name of `credential_list` stands for, behind what the model says itself.
void LitellmImporter::credential(Members& params) {
  const auto named = std::ranges::find(params, "litellm_credential_name", &Members::value_type::first);
  if (named == params.end()) return;
  // A new list: to assign a node is to change the document.
  const YAML::Node at = named->second;
  Members own;
  for (const auto& member : params)
    if (member.first != named->first) own.push_back(member);
  params.swap(own);
  const auto name = read_.text(at, "litellm_params.litellm_credential_name");
  if (!name) return;
  const auto found = credentials_.find(*name);
  if (found == credentials_.end())
    return note(at, "litellm_params.litellm_credential_name", "no credential of the file's list is called so");
  for (const auto& member : found->second)
    if (!contains(params, member.first, &Members::value_type::first)) params.push_back(member);
}

void LitellmImporter::credentials(const YAML::Node& list) {
  if (!list.IsSequence() || list.size() > kMostModels)
    return note(list, "credential_list", fmt::format("should be a list of at most {} credentials", kMostModels));
  for (const auto& each : list) {
    std::string name;
    Members values;
    for (const auto& [key, value] : read_.members(each, "credential_list"))
      if (key == "credential_name")
        name = read_.text(value, "credential_list.credential_name").value_or("");
      else if (key == "credential_values")
        values = read_.members(value, "credential_list.credential_values");
      else if (key != "credential_info")
        note(value, "credential_list." + key, "not supported");
    credentials_[name] = std::move(values);
  }
}

void LitellmImporter::param(const std::string& key, const YAML::Node& value, Texts& given, Deployment& out,
                            Upstream& up) {
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
    auto said = read_.text(value, path);
    const bool secret = key == "api_key" || (key.starts_with("aws_") && key != "aws_region_name");
    if (said && !secret) said = read_.resolved(value, path, std::move(*said));
    if (said) given[key] = std::move(*said);
    if (!said && (key == "api_base" || key == "base_url")) given["no_address"] = key;  // nor its provider's then
  } else if (key == "weight") {
    out.weight = read_.number(value, path, 0, 1e6).value_or(0);
  } else if (key == "order") {
    out.order = static_cast<int>(read_.number(value, path, 0, 1000).value_or(0));
  } else if (key == "rpm") {
    out.rpm = read_.number(value, path, 1, 1e12).value_or(0);
  } else if (key == "tpm") {
    out.tpm = read_.number(value, path, 1, 1e12).value_or(0);
  } else if (key == "max_parallel_requests") {
    out.most = static_cast<int>(read_.number(value, path, 1, 1e6).value_or(0));
  } else if (key == "timeout" || key == "stream_timeout") {
    if (const auto seconds = read_.number(value, path, 0, 1e6))
      up.members[key == "timeout" ? "total_timeout" : "first_token_timeout"] = milliseconds(*seconds);
  } else if (key == "max_retries" || key == "num_retries") {
    if (const auto retries = read_.number(value, path, 0, 1000))
      up.members["max_attempts"] = std::to_string(attempts_of(value, path, *retries));
  } else if (key == "input_cost_per_token" || key == "output_cost_per_token") {
    price(value, path, key.starts_with("input") ? out.input : out.output);
  } else if (key == "extra_headers") {
    for (const auto& [name, header] : read_.members(value, path))
      note(header, path + "." + name, "not taken: write it into the upstream's `headers`");
  } else {
    note(value, path, "not supported");
  }
}

void LitellmImporter::model_info(const std::string& key, const YAML::Node& value, Deployment& out, std::string& mode) {
  const std::string path = "model_info." + key;
  if (key == "input_cost_per_token" || key == "output_cost_per_token")
    price(value, path, key.starts_with("input") ? out.input : out.output);
  else if (key == "mode") {
    mode = read_.text(value, path).value_or("");
    if (mode != "chat" && mode != "completion" && mode != "embedding")
      note(value, path, fmt::format("'{}' is not supported", mode.substr(0, 40)));
  } else if (key != "id" && key != "description")
    note(value, path, "not supported");
}

void LitellmImporter::price(const YAML::Node& value, const std::string& path, std::optional<double>& out) {
  if (const auto dollars = read_.number(value, path, 0, 1)) out = *dollars * 1e6;
}

// Where the model is, and what it is called there.
bool LitellmImporter::place(const YAML::Node& node, const std::string& said, const Texts& given, Upstream& up,
                            std::string& theirs) {
  const auto get = [&](const char* key) {
    const auto found = given.find(key);
    return found == given.end() ? std::string() : found->second;
  };
  std::string url = get("api_base").empty() ? get("base_url") : get("api_base");
  if (url.empty() && given.contains("no_address")) return false;  // which was noted
  const LitellmPlace at = litellm_place(said, get("custom_llm_provider"), !url.empty());
  if (at.kind.empty()) {
    note(node, "litellm_params.model",
         fmt::format("left out: '{}' has a provider that is not known, and no api_base", said.substr(0, 100)));
    return false;
  }
  if (!at.known) note(node, "litellm_params.model", "its provider is not known: taken as an OpenAI-compatible server");
  theirs = at.model;
  up.base = at.provider;
  up.members["kind"] = at.kind;
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
    if (region.empty()) {
      note(node, "litellm_params.aws_region_name", "us-east-1 was written: change it where it is another");
      region = "us-east-1";
    }
    if (!is_region(region)) {
      note(node, "litellm_params.aws_region_name", "left out: it is no region");
      return false;
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
void LitellmImporter::secret(const YAML::Node& node, const std::string& key, const std::string& value,
                             const std::string& ours, Upstream& up) {
  static const std::set<std::string, std::less<>> kNone = {"",     "none",     "null",     "dummy",      "empty",
                                                           "fake", "fake-key", "anything", "not-needed", "no-key"};
  std::string lower = value;
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (kNone.contains(lower)) return;
  if (const auto name = litellm_variable(value); name && is_variable_name(*name)) {
    up.members[ours] = in_quotes("env:" + *name);
    return;
  }
  const std::string name = fmt::format("{}_{}_{}", environment_name(up.base), environment_name(ours), ++secrets_);
  note(node, "litellm_params." + key,
       fmt::format("a secret should not stand in a file: put it into the environment as {}", name));
  up.members[ours] = in_quotes("env:" + name);
}

std::string LitellmImporter::numbered(const std::string& base) const {
  int number = 2;
  while (contains(made_.upstreams, fmt::format("{}-{}", base, number), &Upstream::name)) ++number;
  return fmt::format("{}-{}", base, number);
}

// Clients ask for PROVIDER/MODEL: so who lists all of them has the provider's name, unless another such one has it.
void LitellmImporter::give_way(const std::string& base) {
  const auto holder = std::ranges::find(made_.upstreams, base, &Upstream::name);
  if (holder == made_.upstreams.end() || holder->lists) return;
  holder->name = numbered(base);
  for (Group& group : made_.groups)
    for (Deployment& each : group.deployments)
      if (each.upstream == base) each.upstream = holder->name;
}

// The name of the upstream that is like `wanted`, which serves `model` too.
std::string LitellmImporter::upstream(Upstream wanted, const std::string& model) {
  if (timeout_ > 0) wanted.members.try_emplace("total_timeout", milliseconds(timeout_));
  if (first_token_ > 0) wanted.members.try_emplace("first_token_timeout", milliseconds(first_token_));
  if (attempts_ > 0) wanted.members.try_emplace("max_attempts", std::to_string(attempts_));
  auto found = std::ranges::find_if(made_.upstreams, [&](const Upstream& each) {
    return each.base == wanted.base && each.lists == wanted.lists && each.members == wanted.members;
  });
  if (found == made_.upstreams.end()) {
    wanted.name = wanted.base;
    if (wanted.lists) give_way(wanted.base);
    if (contains(made_.upstreams, wanted.name, &Upstream::name)) wanted.name = numbered(wanted.base);
    found = made_.upstreams.insert(made_.upstreams.end(), std::move(wanted));
  }
  if (!model.empty() && !contains(found->models, model)) found->models.push_back(model);
  return found->name;
}

}  // namespace ashlar::gateway
