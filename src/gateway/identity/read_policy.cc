#include "gateway/identity/read_policy.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>
#include <utility>

#include "gateway/identity/policy.h"
#include "gateway/identity/principal.h"
#include "net/http_text.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostRules = 1000, kMostTags = 100;

// "22:30" in minutes; "24:00" is the end of the day. nullopt: no such time.
std::optional<int> minute_of(std::string_view text) {
  if (text.size() != 5 || text[2] != ':') return std::nullopt;
  for (const std::size_t at : {0, 1, 3, 4})
    if (std::isdigit(static_cast<unsigned char>(text[at])) == 0) return std::nullopt;
  const auto two = [&](std::size_t at) { return (text[at] - '0') * 10 + (text[at + 1] - '0'); };
  const int minutes = two(0) * 60 + two(3);
  if (two(3) > 59 || minutes > kMinutesOfDay) return std::nullopt;
  return minutes;
}

// The values that an attribute may have at all; none: anything.
std::vector<std::string> all_of(std::string_view attribute) {
  std::vector<std::string> out;
  if (attribute == "role") out = names(roles_of(Scope::open));
  if (attribute == "proof")
    for (const Proof each : {Proof::loopback, Proof::key, Proof::jwt, Proof::mtls}) out.emplace_back(name(each));
  if (attribute == "scope")
    for (const Scope each : {Scope::use, Scope::audit, Scope::operate, Scope::admin}) out.emplace_back(name(each));
  return out;
}

class PolicyReader {
 public:
  explicit PolicyReader(Section& section) : section_(section) {}

  PolicyRule rule(const YAML::Node& node, std::string otherwise) {
    PolicyRule out;
    bool effect = false;
    section_.each(node,
                  {{"name", section_.text("name", out.name)},
                   {"effect", section_.word("effect", {"allow", "deny"},
                                            [&](int place) {
                                              effect = true;
                                              out.denies = place == 1;
                                            })},
                   {"when", [&](const YAML::Node& map) { out.when = conditions(map, "when"); }},
                   {"unless", [&](const YAML::Node& map) { out.unless = conditions(map, "unless"); }}},
                  "a rule");
    if (node.IsMap() && !effect && !node["effect"].IsDefined())
      section_.fail(node, "a rule needs an 'effect': allow or deny");
    if (out.name.empty()) out.name = std::move(otherwise);
    if (const Status good = check_name(out.name, "'name'"); !good) section_.fail(node, good.error().message);
    const bool scoped = std::ranges::any_of(out.when.texts, [](const auto& each) { return each.first == "scope"; });
    if (!out.denies && !scoped) out.when.texts.emplace_back("scope", std::vector<std::string>{"use"});
    return out;
  }

 private:
  Conditions conditions(const YAML::Node& node, std::string_view name) {
    Conditions out;
    Section::Readers readers{{"tags", [&](const YAML::Node& map) { tags(map, out); }},
                             {"source", [&](const YAML::Node& list) { sources(list, out); }},
                             {"time", [&](const YAML::Node& map) { out.time = time(map); }}};
    for (const char* attribute : {"tenant", "team", "user", "key", "role", "proof", "scope", "data_class", "model"})
      readers.emplace(attribute, [this, &out, attribute](const YAML::Node& value) { texts(attribute, value, out); });
    section_.each(node, readers, fmt::format("'{}'", name));
    if (node.IsMap() && node.size() == 0) section_.fail(node, fmt::format("'{}' has no condition: leave it out", name));
    return out;
  }

  void texts(const std::string& attribute, const YAML::Node& value, Conditions& out) {
    std::vector<std::string> patterns;
    section_.some_texts(attribute, patterns)(value);
    const std::vector<std::string> known = all_of(attribute);
    for (std::string& each : patterns) {
      if (attribute == "data_class") each = net::lower(each);
      const auto fits = [&](const std::string& one) { return matches_pattern(each, one); };
      if (!known.empty() && std::ranges::none_of(known, fits))
        section_.fail(value,
                      fmt::format("'{}' should fit one of {}, not '{}'", attribute, fmt::join(known, ", "), each));
    }
    out.texts.emplace_back(attribute, std::move(patterns));
  }

  void tags(const YAML::Node& node, Conditions& out) {
    section_.pairs(node, "tags", kMostTags, [&](const std::string& tag, const YAML::Node& value) {
      std::vector<std::string> patterns;
      section_.some_texts(tag, patterns)(value);
      out.tags.emplace_back(tag, std::move(patterns));
    });
    if (node.IsMap() && node.size() == 0) section_.fail(node, "'tags' names no tag: leave it out");
  }

  void sources(const YAML::Node& node, Conditions& out) {
    std::vector<std::string> networks;
    section_.some_texts("source", networks)(node);
    for (const std::string& each : networks) {
      auto network = Network::parse(each);
      if (network)
        out.sources.push_back(std::move(*network));
      else
        section_.fail(node, fmt::format("'source': {}", network.error().message));
    }
  }

  TimeWindow time(const YAML::Node& node) {
    TimeWindow out;
    out.days.fill(true);
    const auto minute = [&](const char* name, int& into) {
      return [this, name, &into](const YAML::Node& value) {
        const auto read = value.IsScalar() ? minute_of(value.Scalar()) : std::nullopt;
        if (!read) return section_.wrong(value, name, "a time of the day (UTC) such as \"08:30\"");
        into = *read;
      };
    };
    section_.each(node,
                  {{"from", minute("from", out.from)},
                   {"to", minute("to", out.to)},
                   {"days", [&](const YAML::Node& list) { days(list, out); }}},
                  "'time' (in UTC)");
    if (out.from == out.to) section_.fail(node, "'time' ends when it begins: 'from' and 'to' should differ");
    return out;
  }

  void days(const YAML::Node& node, TimeWindow& out) {
    out.days.fill(false);
    const auto day = section_.word("days", {"mon", "tue", "wed", "thu", "fri", "sat", "sun"},
                                   [&](int place) { out.days[static_cast<std::size_t>(place)] = true; });
    if (node.IsScalar()) return day(node);
    section_.items(node, "days", 7, day);
    if (node.IsNull() || node.size() == 0) section_.fail(node, "'days' names no day: leave it out for every day");
  }

  Section& section_;
};

}  // namespace

std::vector<PolicyRule> read_policy(Section& section, const YAML::Node& list) {
  std::vector<PolicyRule> out;
  PolicyReader reader(section);
  section.items(list, "policy", kMostRules, [&](const YAML::Node& item) {
    out.push_back(reader.rule(item, fmt::format("policy[{}]", out.size())));
  });
  return out;
}

}  // namespace ashlar::gateway
