#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <charconv>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "gateway/limits/rules.h"
#include "gateway/section.h"

namespace ashlar::gateway {
namespace {

using std::chrono::milliseconds;
using store::LimitKind;

constexpr std::size_t kLongestText = 1 << 20;
constexpr std::size_t kMostEntries = 10'000, kMostAlerts = 20, kLongestName = 256;
const std::vector<std::string> kScopes = {"key", "user", "team", "tenant", "model", "global", "tag"};
const std::vector<std::string> kKinds = {"token_bucket", "leaky_bucket", "sliding_window", "semaphore", "budget"};

Section::Read scope(Section& section, std::optional<LimitScope>& out) {
  return section.word("scope", kScopes, [&out](int place) { out = static_cast<LimitScope>(place); });
}

// Dollars, as nano-dollars.
Section::Read dollars(Section& section, std::string name, std::optional<std::int64_t>& out) {
  return [&section, name = std::move(name), &out](const YAML::Node& node) {
    const auto read = parse_dollars(node.IsScalar() ? node.Scalar() : "");
    if (!read) return section.fail(node, fmt::format("'{}': {}", name, read.error().message));
    out = *read;
  };
}

// What the members of a limit say.
struct Said {
  std::optional<LimitScope> scope;
  LimitKind kind = LimitKind::sliding_window;
  Measure measure = Measure::tokens;
  std::optional<std::int64_t> capacity, dollars;
  std::optional<milliseconds> period;
  store::Calendar window = store::Calendar::total;
  bool soft = false;
};

// "": all is there.
std::string missing(const Said& said, const Rule& rule) {
  if (!said.scope) return "'scope'";
  if (rule.name.empty()) return "'name'";
  if (said.kind == LimitKind::budget) return said.dollars ? "" : "'dollars'";
  if (!said.capacity) return "'capacity'";
  return said.period || said.kind == LimitKind::semaphore ? "" : "'period', as 1m";
}

void read_rule(Section& section, const YAML::Node& node, std::vector<Rule>& out) {
  Rule rule;
  Said said;
  milliseconds period{0};
  const std::size_t before = section.faults();
  section.each(node,
               {{"scope", scope(section, said.scope)},
                {"who", section.text("who", rule.who)},
                {"model", section.text("model", rule.model)},
                {"name", section.text("name", rule.name)},
                {"kind", section.word("kind", kKinds, [&](int place) { said.kind = static_cast<LimitKind>(place); })},
                {"measure", section.word("measure", {"tokens", "requests", "seats", "money"},
                                         [&](int place) { said.measure = static_cast<Measure>(place); })},
                {"capacity", section.whole("capacity", said.capacity, 0)},
                {"period",
                 [&](const YAML::Node& value) {
                   section.duration("period", period)(value);
                   said.period = period;
                 }},
                {"dollars", dollars(section, "dollars", said.dollars)},
                {"window", section.word("window", {"total", "hour", "day", "month"},
                                        [&](int place) { said.window = static_cast<store::Calendar>(place); })},
                {"soft", section.flag("soft", said.soft)},
                {"alerts",
                 [&](const YAML::Node& list) {
                   section.items(list, "alerts", kMostAlerts, [&](const YAML::Node& item) {
                     int percent = 0;
                     section.whole("alerts", percent, 1, 1000)(item);
                     rule.alerts.push_back(percent);
                   });
                 }}},
               "a limit");
  if (section.faults() != before) return;
  if (const std::string what = missing(said, rule); !what.empty())
    return section.fail(node, fmt::format("a limit needs {}", what));
  rule.scope = *said.scope;
  rule.kind = said.kind;
  rule.soft = said.soft;
  if (rule.soft && rule.alerts.empty()) rule.alerts = {100};
  if (said.kind == LimitKind::budget) {
    rule.measure = Measure::money;
    rule.capacity = *said.dollars;
    rule.calendar = said.window;
  } else {
    rule.measure = said.kind == LimitKind::semaphore ? Measure::seats : said.measure;
    rule.capacity = *said.capacity;
    rule.period = said.period.value_or(std::chrono::seconds(30));
  }
  if (const Status fine = check_rule(rule); !fine) return section.fail(node, fine.error().message);
  out.push_back(std::move(rule));
}

void read_cap(Section& section, const YAML::Node& node, std::vector<OutputCap>& out) {
  std::optional<LimitScope> of;
  std::optional<std::int64_t> tokens;
  OutputCap cap;
  const std::size_t before = section.faults();
  section.each(node,
               {{"scope", scope(section, of)},
                {"who", section.text("who", cap.who)},
                {"tokens", section.whole("tokens", tokens, 0)}},
               "an output cap");
  if (section.faults() != before) return;
  if (!of || !tokens) return section.fail(node, "an output cap needs 'scope' and 'tokens'");
  cap.scope = *of;
  cap.tokens = *tokens;
  out.push_back(std::move(cap));
}

// "2026-03-01".
std::optional<PriceTable::Day> day_of(const std::string& text) {
  int year = 0;
  unsigned month = 0, day = 0;
  const auto number = [&](std::size_t begin, std::size_t size, auto& value) {
    const char* end = text.data() + begin + size;
    return std::from_chars(text.data() + begin, end, value).ptr == end;
  };
  if (text.size() != 10 || text[4] != '-' || text[7] != '-' || !number(0, 4, year) || !number(5, 2, month) ||
      !number(8, 2, day))
    return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month), std::chrono::day(day)};
  if (!date.ok()) return std::nullopt;
  return PriceTable::Day(date);
}

void read_price(Section& section, const YAML::Node& node, PriceTable& out) {
  std::string model;
  PriceTable::Day from{};
  std::optional<std::int64_t> input, cached_input, cache_write, cache_write_1h, output, reasoning;
  const std::size_t before = section.faults();
  section.each(node,
               {{"model", section.text("model", model)},
                {"from",
                 [&](const YAML::Node& value) {
                   const auto day = day_of(value.IsScalar() ? value.Scalar() : "");
                   if (!day) return section.fail(value, "'from' should be a day, as 2026-03-01");
                   from = *day;
                 }},
                {"input", dollars(section, "input", input)},
                {"cached_input", dollars(section, "cached_input", cached_input)},
                {"cache_write", dollars(section, "cache_write", cache_write)},
                {"cache_write_1h", dollars(section, "cache_write_1h", cache_write_1h)},
                {"output", dollars(section, "output", output)},
                {"reasoning", dollars(section, "reasoning", reasoning)}},
               "a price");
  if (section.faults() != before) return;
  if (model.empty() || model.size() > kLongestName) return section.fail(node, "a price names its 'model'");
  Price price;
  price.input = input.value_or(0);
  price.cached_input = cached_input.value_or(price.input);
  price.cache_write = cache_write.value_or(price.input);
  price.cache_write_1h = cache_write_1h.value_or(price.cache_write);
  price.output = output.value_or(0);
  price.reasoning = reasoning.value_or(price.output);
  out.add(model, from, price);
}

void read(Section& section, const YAML::Node& root, LimitsConfig& out) {
  std::vector<Rule> rules;
  const auto list = [&](const char* name, auto read_one, auto& into) {
    return [&section, name, read_one, &into](const YAML::Node& node) {
      section.items(node, name, kMostEntries, [&](const YAML::Node& item) { read_one(section, item, into); });
    };
  };
  section.each(root,
               {{"profile",
                 [&](const YAML::Node& value) {
                   auto profile = limits_profile(value.IsScalar() ? value.Scalar() : "");
                   if (!profile) return section.fail(value, profile.error().message);
                   out.rules = std::move(*profile);
                 }},
                {"limits", list("limits", read_rule, rules)},
                {"output_caps", list("output_caps", read_cap, out.caps)},
                {"prices", list("prices", read_price, out.prices)},
                {"refuse_unpriced", section.flag("refuse_unpriced", out.refuse_unpriced)}},
               "a file of limits");
  for (Rule& rule : rules) out.rules.push_back(std::move(rule));  // on top of the profile's
}

}  // namespace

Result<LimitsConfig> read_limits(const std::string& text, const std::string& path) {
  if (text.size() > kLongestText) return Error{Code::too_large, fmt::format("{}: more than 1 MiB of text", path)};
  LimitsConfig config;
  TRY(read_whole(text, path, [&](Section& section, const YAML::Node& root) { read(section, root, config); }));
  return config;
}

}  // namespace ashlar::gateway
