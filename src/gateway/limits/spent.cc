#include "gateway/limits/spent.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>

#include "store/usage.h"

namespace ashlar::gateway {
namespace {

using std::chrono::days;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::sys_days;

// When the window began that is open at `utc_ms`.
std::int64_t window_begin(store::Calendar calendar, std::int64_t utc_ms) {
  const std::chrono::sys_time<milliseconds> now{milliseconds(utc_ms)};
  const auto ms = [](auto time) { return std::chrono::time_point_cast<milliseconds>(time).time_since_epoch().count(); };
  switch (calendar) {
    case store::Calendar::hour:
      return ms(std::chrono::floor<hours>(now));
    case store::Calendar::day:
      return ms(std::chrono::floor<days>(now));
    case store::Calendar::month: {
      const std::chrono::year_month_day date{std::chrono::floor<days>(now)};
      return ms(sys_days{date.year() / date.month() / 1});
    }
    case store::Calendar::total:
      break;
  }
  return std::numeric_limits<std::int64_t>::min();
}

std::string tag_of(const Rule& rule) { return rule.who.substr(0, rule.who.find('=')); }

}  // namespace

// What the rows of usage call those whom a rule counts; the model always.
std::vector<std::string> dimensions_of(const Rule& rule) {
  switch (rule.scope) {
    case LimitScope::key:
      return {"model", "key"};
    case LimitScope::user:
      return {"model", "user", "key"};  // who has no name is counted by his key
    case LimitScope::team:
      return {"model", "team"};
    case LimitScope::tenant:
      return {"model", "tenant"};
    case LimitScope::tag:
      return {"model", "tag:" + tag_of(rule)};
    case LimitScope::model:
    case LimitScope::global:
      break;
  }
  return {"model"};
}

Subject subject_in_rows(const std::vector<std::string>& dimensions, const std::vector<std::string>& values) {
  Subject out;
  for (std::size_t i = 1; i < dimensions.size(); ++i) {
    const std::string& name = dimensions[i];
    if (name == "key")
      out.key = values[i];
    else if (name == "user")
      out.user = values[i];
    else if (name == "team")
      out.team = values[i];
    else if (name == "tenant")
      out.tenant = values[i];
    else
      out.tags = {{name.substr(4), values[i]}};
  }
  return out;
}

namespace {

void add(std::vector<Spender>& all, const Applied& applied, std::int64_t nanos) {
  const auto known =
      std::ranges::find(all, applied.limit.key, [](const Spender& each) { return each.spent.limit.key; });
  if (known != all.end())
    known->spent.used += nanos;
  else
    all.push_back({applied.rule, applied.who, {applied.limit, nanos}});
}

}  // namespace

Result<std::vector<Spender>> spenders(const LimitsConfig& config, store::Database& database, std::int64_t utc_ms,
                                      const SpentRows& rows) {
  std::vector<Spender> out;
  for (const Rule& rule : config.rules) {
    if (rule.measure != Measure::money) continue;
    const auto dimensions = dimensions_of(rule);
    const store::UsageFilter filter{
        .since_ms = window_begin(rule.calendar, utc_ms), .until_ms = rows.until_ms, .except = rows.except};
    const auto sums = TRY(store::sum_usage(database, filter, dimensions));
    for (const store::UsageSum& sum : sums)
      for (const Applied& applied : rules_for(config, subject_in_rows(dimensions, sum.by), sum.by.front()))
        if (applied.rule == &rule) add(out, applied, sum.cost_nano);
    for (const UsageRecord& record : rows.unwritten)
      if (record.cost > 0 && record.begun_utc_ms >= window_begin(rule.calendar, utc_ms))
        for (const Applied& applied : rules_for(config, record.subject, record.model))
          if (applied.rule == &rule) add(out, applied, record.cost);
  }
  return out;
}

Result<std::vector<store::Spent>> budgets_spent(const LimitsConfig& config, store::Database& database,
                                                std::int64_t utc_ms, const SpentRows& rows) {
  std::vector<store::Spent> out;
  for (Spender& each : TRY(spenders(config, database, utc_ms, rows))) out.push_back(std::move(each.spent));
  return out;
}

}  // namespace ashlar::gateway
