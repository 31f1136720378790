#include "gateway/limits/past.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <utility>

#include "gateway/limits/spent.h"
#include "store/usage.h"

namespace ashlar::gateway {
namespace {

using std::chrono::milliseconds;
using store::Past;

bool is_rate(const Rule& rule) { return rule.measure == Measure::tokens || rule.measure == Measure::requests; }

// A window has forgotten what is older. A bucket that was overdrawn fills for longer than its period: 200 of them, at
// most a day, are enough for an answer of 200 times its size.
milliseconds memory_of(const Rule& rule) {
  if (rule.kind == store::LimitKind::sliding_window) return rule.period + rule.period / store::kWindowSlots;
  return std::max(rule.period, std::min<milliseconds>(200 * rule.period, std::chrono::hours(24)));
}

class Gathered {
 public:
  Gathered(const LimitsConfig& config, const Rule& rule, std::int64_t now_ms)
      : config_(config), rule_(rule), now_ms_(now_ms) {}

  void add(const Subject& subject, const std::string& model, std::int64_t at_ms, std::int64_t amount) {
    const milliseconds ago(std::max<std::int64_t>(0, now_ms_ - at_ms));
    for (const Applied& applied : rules_for(config_, subject, model)) {
      if (applied.rule != &rule_) continue;
      Past& past = all_[applied.limit.key];
      past.limit = applied.limit;
      past.uses.push_back({ago, amount});
    }
  }
  void move_to(std::vector<Past>& out) {
    for (auto& [key, past] : all_) {
      std::ranges::sort(past.uses, std::greater(), &Past::Use::ago);
      out.push_back(std::move(past));
    }
  }

 private:
  const LimitsConfig& config_;
  const Rule& rule_;
  const std::int64_t now_ms_;
  std::map<std::string, Past> all_;
};

}  // namespace

Result<std::vector<Past>> rates_used(const LimitsConfig& config, store::Database& database, std::int64_t utc_ms,
                                     std::span<const UsageRecord> unwritten) {
  std::vector<Past> out;
  for (const Rule& rule : config.rules) {
    if (!is_rate(rule)) continue;
    const auto amount = [&](std::int64_t requests, std::int64_t tokens) {
      return rule.measure == Measure::tokens ? tokens : requests;
    };
    const std::int64_t slot_ms = std::max<std::int64_t>(1, rule.period.count() / store::kWindowSlots);
    const std::int64_t since = utc_ms - memory_of(rule).count();
    Gathered gathered(config, rule, utc_ms);
    const auto dimensions = dimensions_of(rule);
    for (const auto& slot : TRY(store::usage_in_slots(database, {.since_ms = since}, dimensions, slot_ms)))
      gathered.add(subject_in_rows(dimensions, slot.by), slot.by.front(), (slot.slot + 1) * slot_ms,
                   amount(slot.requests, slot.tokens));
    for (const UsageRecord& record : unwritten)
      if (record.begun_utc_ms >= since && record.use.total() > 0)
        gathered.add(record.subject, record.model, record.begun_utc_ms, amount(1, record.use.total()));
    gathered.move_to(out);
  }
  return out;
}

}  // namespace ashlar::gateway
