#include "gateway/litellm/import_litellm.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <utility>

#include "base/contains.h"
#include "base/utf8.h"
#include "gateway/litellm/importer.h"
#include "gateway/section.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostText = 4 << 20;

}  // namespace

LitellmImport LitellmImporter::run(const YAML::Node& root, const std::string& limits_file) {
  for (const auto& [key, value] : read_.members(root, "the file")) {
    if (key == "model_list")
      models_ = value;
    else if (key == "router_settings")
      router_ = value;
    else if (key == "litellm_settings")
      module_ = value;
    else if (key == "general_settings")
      general_ = value;
    else if (key == "credential_list")
      credentials(value);
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
  out.limits = made_.limits(read_);
  out.config = made_.config(out.limits.empty() ? "" : limits_file);
  if (!out.limits.empty() && limits_file.empty())
    read_.note_line(0, "rpm, tpm, input_cost_per_token", "limits and prices stand in a file of their own: use --out");
  out.notes = read_.take_notes();
  return out;
}

// Once all groups are known.

LitellmGroup* LitellmImporter::group(const std::string& name) {
  const auto found = std::ranges::find(made_.groups, name, &Group::name);
  return found == made_.groups.end() ? nullptr : &*found;
}

// [{name: [others]}], or {name: [others]}.
void LitellmImporter::fallbacks(const std::string& cause, const YAML::Node& node) {
  if (node.IsSequence() && node.size() <= kMostModels) {
    for (const auto& each : node)
      for (const auto& [name, list] : read_.members(each, "fallbacks")) fallback(cause, name, list);
  } else {
    for (const auto& [name, list] : read_.members(node, "fallbacks")) fallback(cause, name, list);
  }
}

void LitellmImporter::fallback(const std::string& cause, const std::string& name, const YAML::Node& list) {
  const std::vector<std::string> to = read_.words(list, "fallbacks." + name);
  if (name == "*") {
    made_.default_fallbacks.insert(made_.default_fallbacks.end(), to.begin(), to.end());
    return;
  }
  Group* from = group(name);
  if (from == nullptr) return note(list, "fallbacks." + name, "left out: no such model");
  if (from->embeds) return note(list, "fallbacks." + name, "left out: it makes vectors, which come from one place");
  for (const std::string& each : to) {
    const Group* other = group(each);
    if (other == nullptr || other->embeds)
      note(list, "fallbacks." + name,
           fmt::format("'{}' left out: {}", each.substr(0, 100),
                       other == nullptr ? "no such model" : "it makes vectors"));
    else if (each != name && !contains(from->fallbacks[cause], each))
      from->fallbacks[cause].push_back(each);
  }
}

void LitellmImporter::aliases(const YAML::Node& node) {
  for (const auto& [alias, value] : read_.members(node, "model_group_alias")) {
    std::string to = value.IsScalar() ? value.Scalar() : "";
    for (const auto& [key, inner] : value.IsMap() ? read_.members(value, "model_group_alias") : Members{})
      if (key == "model")
        to = read_.text(inner, "model_group_alias.model").value_or("");
      else
        note(inner, "model_group_alias." + key, "not supported");
    const bool taken = group(alias) != nullptr || !aliases_seen_.insert(alias).second;
    Group* found = group(to);
    if (found == nullptr || taken || !is_config_name(alias) || !utf8::is_valid(alias))
      note(value, "model_group_alias." + alias,
           found == nullptr ? "left out: no such model" : "left out: the name is taken, or none");
    else
      found->aliases.push_back(alias);
  }
}

Result<LitellmImport> import_litellm(const std::string& text, const std::string& limits_file) {
  if (text.size() > kMostText) return Error{Code::too_large, "larger than 4 MiB"};
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap()) return Error{Code::invalid, "line 1: expected `name: value` lines, model_list among them"};
    return LitellmImporter().run(root, limits_file);
  } catch (const YAML::Exception& e) {
    return Error{Code::invalid, fmt::format("line {}: {}", e.mark.line + 1, e.msg)};
  } catch (const TooMuch&) {
    return Error{Code::too_large, "it has more in it, aliases followed, than such a file can mean"};
  }
}

}  // namespace ashlar::gateway
