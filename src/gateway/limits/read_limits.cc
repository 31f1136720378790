#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <initializer_list>
#include <set>
#include <string>

#include "base/duration.h"
#include "gateway/limits/rules.h"

namespace ashlar::gateway {
namespace {

using store::LimitKind;

constexpr std::size_t kLongestText = 1 << 20;
constexpr std::size_t kMostEntries = 10'000;

Error at(const YAML::Node& node, std::string_view what) {
  return {Code::invalid, fmt::format("limits, line {}: {}", node.Mark().line + 1, what)};
}

// The members of a map, all of which must be asked for.
class Members {
 public:
  static Result<Members> of(const YAML::Node& node, std::initializer_list<std::string_view> known) {
    if (!node.IsMap()) return at(node, "expected `name: value` pairs");
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) return at(node, "a name must be a single word");
      const std::string& name = entry.first.Scalar();
      if (std::ranges::find(known, name) == known.end())
        return at(entry.first, fmt::format("'{}' is not known here", name.substr(0, 40)));
      if (!seen.insert(name).second) return at(entry.first, fmt::format("'{}' is said twice", name));
    }
    return Members(node);
  }

  const YAML::Node& node() const { return node_; }
  YAML::Node get(const char* name) const { return node_[name]; }

  Result<std::string> text(const char* name, std::string otherwise = {}) const {
    const YAML::Node value = node_[name];
    if (!value) return otherwise;
    if (!value.IsScalar()) return at(value, fmt::format("{} is a single value", name));
    if (value.Scalar().size() > 1024) return at(value, fmt::format("{} is too long", name));
    return value.Scalar();
  }
  Result<std::int64_t> whole(const char* name) const {
    const std::string said = TRY(text(name));
    std::int64_t value = 0;
    const auto [end, failed] = std::from_chars(said.data(), said.data() + said.size(), value);
    if (failed != std::errc{} || end != said.data() + said.size() || value < 0)
      return at(node_, fmt::format("{} must be a whole number from 0", name));
    return value;
  }
  // One of `words`, by its place.
  Result<int> word(const char* name, std::initializer_list<std::string_view> words, std::string otherwise = {}) const {
    const std::string said = TRY(text(name, std::move(otherwise)));
    const auto found = std::ranges::find(words, said);
    if (found == words.end()) return at(node_, fmt::format("{} must be one of {}", name, fmt::join(words, ", ")));
    return static_cast<int>(found - words.begin());
  }

 private:
  explicit Members(const YAML::Node& node) : node_(node) {}
  YAML::Node node_;
};

Result<std::vector<YAML::Node>> items_of(const YAML::Node& root, const char* name) {
  std::vector<YAML::Node> items;
  const YAML::Node list = root[name];
  if (!list) return items;
  if (!list.IsSequence()) return at(list, fmt::format("{} is a list", name));
  if (list.size() > kMostEntries) return at(list, fmt::format("more than {} {}", kMostEntries, name));
  for (const auto& item : list) items.push_back(item);
  return items;
}

Result<LimitScope> read_scope(const Members& members) {
  return static_cast<LimitScope>(
      TRY(members.word("scope", {"key", "user", "team", "tenant", "model", "global", "tag"})));
}

Result<Rule> read_rule(const YAML::Node& node) {
  const auto members = TRY(Members::of(
      node, {"scope", "who", "model", "name", "measure", "kind", "capacity", "period", "dollars", "window", "alerts"}));
  Rule rule{.scope = TRY(read_scope(members)),
            .who = TRY(members.text("who")),
            .model = TRY(members.text("model")),
            .name = TRY(members.text("name"))};
  rule.kind = static_cast<LimitKind>(TRY(members.word(
      "kind", {"token_bucket", "leaky_bucket", "sliding_window", "semaphore", "budget"}, "sliding_window")));
  if (rule.kind == LimitKind::budget) {
    rule.measure = Measure::money;
    auto dollars = parse_dollars(TRY(members.text("dollars")));
    if (!dollars) return at(node, "dollars: " + dollars.error().message);
    rule.capacity = *dollars;
    rule.calendar =
        static_cast<store::Calendar>(TRY(members.word("window", {"total", "hour", "day", "month"}, "total")));
  } else {
    rule.measure = rule.kind == LimitKind::semaphore
                       ? Measure::seats
                       : static_cast<Measure>(TRY(members.word("measure", {"tokens", "requests"}, "tokens")));
    rule.capacity = TRY(members.whole("capacity"));
    auto period = parse_duration(TRY(members.text("period", rule.kind == LimitKind::semaphore ? "30s" : "")));
    if (!period) return at(node, "period: " + period.error().message);
    rule.period = *period;
  }
  if (const YAML::Node alerts = members.get("alerts")) {
    if (!alerts.IsSequence() || alerts.size() > 20) return at(node, "alerts is a list of at most 20 percentages");
    for (const auto& alert : alerts) {
      int percent = 0;
      if (!alert.IsScalar() || !YAML::convert<int>::decode(alert, percent))
        return at(node, "alerts are whole percentages");
      rule.alerts.push_back(percent);
    }
  }
  if (auto fine = check_rule(rule); !fine) return at(node, fine.error().message);
  return rule;
}

Status read_price(const YAML::Node& node, PriceTable& prices) {
  const auto members = TRY(Members::of(node, {"model", "from", "input", "cached_input", "output", "reasoning"}));
  const std::string model = TRY(members.text("model"));
  if (model.empty() || model.size() > 256) return at(node, "a price names its model");
  const std::string from = TRY(members.text("from", "1970-01-01"));
  int year = 0;
  unsigned month = 0, day = 0;
  const auto number = [&](std::size_t begin, std::size_t size, auto& value) {
    const char* end = from.data() + begin + size;
    return std::from_chars(from.data() + begin, end, value).ptr == end;
  };
  const bool read = from.size() == 10 && from[4] == '-' && from[7] == '-' && number(0, 4, year) &&
                    number(5, 2, month) && number(8, 2, day);
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month), std::chrono::day(day)};
  if (!read || !date.ok()) return at(node, "from is a day, 2026-03-01");
  const auto dollars = [&](const char* name, std::int64_t otherwise) -> Result<std::int64_t> {
    const std::string said = TRY(members.text(name));
    if (said.empty()) return otherwise;
    auto value = parse_dollars(said);
    if (!value) return at(node, fmt::format("{}: {}", name, value.error().message));
    return value;
  };
  Price price;
  price.input = TRY(dollars("input", 0));
  price.cached_input = TRY(dollars("cached_input", price.input));
  price.output = TRY(dollars("output", 0));
  price.reasoning = TRY(dollars("reasoning", price.output));
  prices.add(model, date, price);
  return {};
}

Result<LimitsConfig> read(const YAML::Node& root) {
  LimitsConfig config;
  if (root.IsNull()) return config;
  const auto members = TRY(Members::of(root, {"profile", "limits", "output_caps", "prices", "refuse_unpriced"}));
  auto profile = limits_profile(TRY(members.text("profile", "none")));
  if (!profile) return at(root, profile.error().message);
  config.rules = std::move(*profile);
  config.refuse_unpriced = TRY(members.word("refuse_unpriced", {"false", "true"}, "false")) == 1;
  std::string faults;
  const auto each = [&](const char* name, const std::function<Status(const YAML::Node&)>& read) -> Status {
    for (const YAML::Node& node : TRY(items_of(root, name)))
      if (const Status done = read(node); !done) faults += (faults.empty() ? "" : "\n") + done.error().message;
    return {};
  };
  TRY(each("limits", [&](const YAML::Node& node) -> Status {
    config.rules.push_back(TRY(read_rule(node)));
    return {};
  }));
  TRY(each("output_caps", [&](const YAML::Node& node) -> Status {
    const auto cap = TRY(Members::of(node, {"scope", "who", "tokens"}));
    config.caps.push_back({TRY(read_scope(cap)), TRY(cap.text("who")), TRY(cap.whole("tokens"))});
    return {};
  }));
  TRY(each("prices", [&](const YAML::Node& node) { return read_price(node, config.prices); }));
  if (!faults.empty()) return Error{Code::invalid, faults};
  return config;
}

}  // namespace

Result<LimitsConfig> read_limits(const std::string& text) {
  if (text.size() > kLongestText) return Error{Code::too_large, "limits: more than 1 MiB of text"};
  try {
    return read(YAML::Load(text));
  } catch (const YAML::Exception& e) {
    return Error{Code::invalid, fmt::format("limits: {}", e.what())};
  }
}

}  // namespace ashlar::gateway
