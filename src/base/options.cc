#include "base/options.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "base/nearest.h"

namespace ashlar {
namespace options_detail {

Error bad_value(std::string_view name, std::string_view text, std::string_view expected) {
  return {Code::invalid, fmt::format("{}: '{}' is not {}", name, text, expected)};
}

Result<bool> parse_bool(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (lower == "true" || lower == "1" || lower == "yes" || lower == "on") return true;
  if (lower == "false" || lower == "0" || lower == "no" || lower == "off") return false;
  return Error{Code::invalid, "not a bool"};
}

std::string show(bool value) { return value ? "true" : "false"; }
std::string show(double value) { return fmt::format("{}", value); }
std::string show(long long value) { return fmt::format("{}", value); }

}  // namespace options_detail

Status read_options_file(const std::string& path, std::vector<Option>& options,
                         const std::vector<std::string>& sections) {
  if (!std::filesystem::is_regular_file(path))
    return Error{Code::not_found, fmt::format("{}: no such configuration file", path)};
  try {
    const YAML::Node root = YAML::LoadFile(path);
    if (root.IsNull()) return {};
    if (!root.IsMap()) return Error{Code::invalid, fmt::format("{}: expected `name: value` lines", path)};
    for (const auto& entry : root) {
      auto name = entry.first.as<std::string>();
      std::ranges::replace(name, '-', '_');
      const auto at = fmt::format("{}:{}", path, entry.first.Mark().line + 1);
      const auto option = std::ranges::find(options, name, &Option::name);
      if (std::ranges::find(sections, name) != sections.end()) continue;
      if (option == options.end()) {
        std::vector<std::string> known = sections;
        for (const Option& each : options) known.push_back(each.name);
        return Error{Code::invalid, fmt::format("{}: no option is called '{}'{}", at, name, did_you_mean(name, known))};
      }
      const auto set = [&](const YAML::Node& value) -> Status {
        if (!value.IsScalar()) return Error{Code::invalid, fmt::format("{}: {} takes a single value", at, name)};
        auto done = option->set(value.as<std::string>());
        if (!done) return Error{done.error().code, fmt::format("{}: {}", at, done.error().message)};
        return {};
      };
      if (entry.second.IsSequence() && option->is_list)
        for (const auto& item : entry.second) TRY(set(item));
      else
        TRY(set(entry.second));
    }
  } catch (const YAML::Exception& e) {
    return Error{Code::invalid, fmt::format("{}: {}", path, e.what())};
  }
  return {};
}

Status read_options_environment(std::vector<Option>& options) {
  for (Option& option : options) {
    std::string variable = "ASHLAR_";
    for (const char c : option.name) variable.push_back(static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
    const char* value = std::getenv(variable.c_str());
    if (value == nullptr) continue;
    auto done = option.set(value);
    if (!done) return Error{done.error().code, fmt::format("{}: {}", variable, done.error().message)};
  }
  return {};
}

}  // namespace ashlar
