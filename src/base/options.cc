#include "base/options.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>

#include "base/nearest.h"
#include "base/yaml.h"

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

Status read_options_text(const std::string& text, const std::string& path, std::vector<Option>& options,
                         const std::vector<std::string>& sections) {
  FileFaults faults(path);
  const auto set = [&](const YAML::Node& at, const YAML::Node& value, const Option& option) {
    if (!value.IsScalar())
      return faults.add(at, fmt::format("{} takes a single value, not {}", option.name, shape_of(value)));
    if (const Status done = option.set(value.Scalar()); !done) faults.add(at, done.error().message);
  };
  const YAML::Node root = TRY(load_yaml(text, path, faults));
  if (root.IsNull()) return faults.status();
  if (!root.IsMap()) return Error{Code::invalid, fmt::format("{}: expected `name: value` lines", path)};
  std::set<std::string> seen;
  for (const auto& entry : root) {
    if (!entry.first.IsScalar()) continue;  // told
    std::string name = entry.first.Scalar();
    std::ranges::replace(name, '-', '_');
    if (!seen.insert(name).second) {
      faults.add(entry.first, fmt::format("'{}' stands twice", name));
      continue;
    }
    if (name == "<<" || std::ranges::find(sections, name) != sections.end()) continue;
    const auto option = std::ranges::find(options, name, &Option::name);
    if (option == options.end()) {
      std::vector<std::string> known = sections;
      for (const Option& each : options) known.push_back(each.name);
      faults.add(entry.first, fmt::format("no option is called '{}'{}", name, did_you_mean(name, known)));
    } else if (entry.second.IsSequence() && option->is_list) {
      for (const auto& item : entry.second) set(item, item, *option);
    } else {
      set(entry.first, entry.second, *option);
    }
  }
  return faults.status();
}

Status read_options_file(const std::string& path, std::vector<Option>& options,
                         const std::vector<std::string>& sections) {
  const std::string text = TRY(read_text_file(path, "configuration file", 4_MiB));
  return read_options_text(text, path, options, sections);
}

Status read_options_environment(std::vector<Option>& options) {
  std::string faults;
  for (Option& option : options) {
    std::string variable = "ASHLAR_";
    for (const char c : option.name) variable.push_back(static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
    const char* value = std::getenv(variable.c_str());
    if (value == nullptr) continue;
    if (const Status done = option.set(value); !done)
      faults += fmt::format("{}{}: {}", faults.empty() ? "" : "\n", variable, done.error().message);
  }
  if (!faults.empty()) return Error{Code::invalid, faults};
  return {};
}

}  // namespace ashlar
