// Which limits there are: the rules of a configuration, and whom each one counts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "gateway/limits/prices.h"
#include "store/counters.h"

namespace ashlar::gateway {

// Who asks, as identity found out. Empty: not known.
struct Subject {
  std::string key;  // the key's id, never its secret
  std::string user, team, tenant;
  std::vector<std::pair<std::string, std::string>> tags;  // "tier": "free"
};

enum class LimitScope { key, user, team, tenant, model, global, tag };
enum class Measure { tokens, requests, seats, money };

// One line of the configuration.
struct Rule {
  LimitScope scope = LimitScope::global;
  // Whom it is for: "ann"; of a tag "tier=free", counted for all of them together. Empty: for each one apart; a rule
  // that names somebody stands for him in place of the rule of the same scope, name and model that is for each.
  std::string who;
  std::string model;  // only where this one is asked; empty: whichever
  std::string name;   // "tpm": what it is called in refusals, and a part of its counter's name
  Measure measure = Measure::tokens;
  store::LimitKind kind = store::LimitKind::sliding_window;
  std::int64_t capacity = 0;  // money: nano-dollars
  std::chrono::milliseconds period{0};
  store::Calendar calendar = store::Calendar::total;
  std::vector<int> alerts;  // of a budget: at which percentages of it somebody is told
  bool soft = false;        // of a budget: somebody is told, and nobody is refused
  // Of a budget that is kept in the database: then it stands for no other rule and none for it, and this takes the
  // name's place in its counter's name.
  std::string id;
};

// The longest answer of whomever it is for; the shortest of those that apply holds.
struct OutputCap {
  LimitScope scope = LimitScope::global;
  std::string who;  // empty: each one
  std::int64_t tokens = 0;
};

struct LimitsConfig {
  std::vector<Rule> rules;
  std::vector<OutputCap> caps;
  PriceTable prices;
  // A request to which a budget applies, for a model without a price: refused, or else it is free.
  bool refuse_unpriced = false;
};

// "field": what platforms run with. Tokens per minute: a bucket of 1,000 for each user; per day: a sliding window of
// 50,000 for each user; 10 seats for each model; 10,000 tokens per second leak out of one bucket for all; 1,000
// requests per hour for each team. "none": no limits. invalid: another name.
Result<std::vector<Rule>> limits_profile(std::string_view name);

// A configuration in YAML or JSON, at most 1 MiB (README.md shows one), which errors call `path`. invalid: every fault,
// a line each, with its line and what was expected.
Result<LimitsConfig> read_limits(const std::string& text, const std::string& path = "limits");
// What read_limits() checks of rules, for those that come from elsewhere.
Status check_rule(const Rule& rule);

// The rules that apply to `subject` asking for `model`, each with its counter. A user that is not known is his key, or
// else "anonymous"; of the other scopes, who is not known is not counted.
// The rules must lie as sort_rules() leaves them, so that thousands for single users cost nothing.
void sort_rules(LimitsConfig& config);
struct Applied {
  const Rule* rule = nullptr;  // lives as long as the configuration
  std::string who;             // as a person reads it: "user 'ann'", "all requests together"
  store::Limit limit;
};
std::vector<Applied> rules_for(const LimitsConfig& config, const Subject& subject, const std::string& model);
// nullopt: no cap.
std::optional<std::int64_t> output_cap(const LimitsConfig& config, const Subject& subject, const std::string& model);

std::string_view name(LimitScope scope);

}  // namespace ashlar::gateway
