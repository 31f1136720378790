#include "base/options.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

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

Status read_options_text(const std::string& text, const std::string& path, std::vector<Option>& options,
                         const std::vector<std::string>& sections) {
  std::string faults;
  const auto fail = [&](const YAML::Node& at, std::string_view why) {
    faults += fmt::format("{}{}:{}: {}", faults.empty() ? "" : "\n", path, at.Mark().line + 1, why);
  };
  const auto set = [&](const YAML::Node& at, const YAML::Node& value, const Option& option) {
    if (!value.IsScalar()) return fail(at, option.name + " takes a single value");
    if (const Status done = option.set(value.Scalar()); !done) fail(at, done.error().message);
  };
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) return {};
    if (!root.IsMap()) return Error{Code::invalid, fmt::format("{}: expected `name: value` lines", path)};
    std::set<std::string> seen;
    for (const auto& entry : root) {
      if (!entry.first.IsScalar()) {
        fail(entry.first, "an option's name should be a word");
        continue;
      }
      std::string name = entry.first.Scalar();
      std::ranges::replace(name, '-', '_');
      if (!seen.insert(name).second) {
        fail(entry.first, fmt::format("'{}' stands twice", name));
        continue;
      }
      if (std::ranges::find(sections, name) != sections.end()) continue;
      const auto option = std::ranges::find(options, name, &Option::name);
      if (option == options.end()) {
        std::vector<std::string> known = sections;
        for (const Option& each : options) known.push_back(each.name);
        fail(entry.first, fmt::format("no option is called '{}'{}", name, did_you_mean(name, known)));
      } else if (entry.second.IsSequence() && option->is_list) {
        for (const auto& item : entry.second) set(entry.first, item, *option);
      } else {
        set(entry.first, entry.second, *option);
      }
    }
  } catch (const YAML::Exception& e) {
    return Error{Code::invalid, fmt::format("{}:{}: {}", path, e.mark.line + 1, e.msg)};
  }
  if (!faults.empty()) return Error{Code::invalid, faults};
  return {};
}

Status read_options_file(const std::string& path, std::vector<Option>& options,
                         const std::vector<std::string>& sections) {
  constexpr std::uintmax_t kMostBytes = 4 << 20;
  if (!std::filesystem::is_regular_file(path))
    return Error{Code::not_found, fmt::format("{}: no such configuration file", path)};
  std::error_code failed;
  if (std::filesystem::file_size(path, failed) > kMostBytes)
    return Error{Code::too_large, fmt::format("{}: larger than 4 MiB", path)};
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return read_options_text(text.str(), path, options, sections);
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
