#include "gateway/routing/outliers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace ashlar::gateway {

void Outliers::done(const std::string& name, bool good, TimePoint now) {
  const auto found = members_.find(name);
  if (found == members_.end()) return;
  Member& member = found->second;
  ++member.calls;
  member.good += good ? 1 : 0;
  member.failures_in_row = good ? 0 : member.failures_in_row + 1;
  if (good && member.out) come_back(*found, "it answers");
  if (options_.consecutive <= 0 || member.failures_in_row < options_.consecutive) return;
  if (is_last(member))
    for (Entry& entry : members_)
      if (entry.second.out) come_back(entry, "the last one fails, too");
  eject(*found, fmt::format("{} failures in a row", member.failures_in_row), now);
}

bool Outliers::ejected(const std::string& name) const {
  const auto found = members_.find(name);
  return found != members_.end() && found->second.out;
}

bool Outliers::may_eject() const {
  const auto out = std::ranges::count_if(members_, [](const auto& entry) { return entry.second.out; });
  const auto most = std::max<std::ptrdiff_t>(
      1, static_cast<std::ptrdiff_t>(options_.most_share * static_cast<double>(members_.size())));
  return out < most && out + 1 < std::ssize(members_);
}

bool Outliers::is_last(const Member& member) const {
  const auto in = std::ranges::count_if(members_, [](const auto& entry) { return !entry.second.out; });
  return in == 1 && !member.out;
}

void Outliers::come_back(Entry& entry, std::string why) {
  entry.second.out = false;
  entry.second.calls = entry.second.good = 0;
  changes_.push_back({entry.first, false, std::move(why)});
}

void Outliers::eject(Entry& entry, std::string why, TimePoint now) {
  Member& member = entry.second;
  member.failures_in_row = 0;
  if (member.out || !may_eject()) return;
  member.out = true;
  ++member.times;
  member.back = now + std::min(options_.base * member.times, options_.most);
  changes_.push_back({entry.first, true, std::move(why)});
}

void Outliers::turn(TimePoint now) {
  for (Entry& entry : members_)
    if (entry.second.out && now >= entry.second.back) come_back(entry, "its time is over");
  if (swept_ == TimePoint{}) swept_ = now;
  if (now - swept_ < options_.sweep) return;
  swept_ = now;
  sweep(now);
}

void Outliers::sweep(TimePoint now) {
  const auto rate = [](const Member& member) { return static_cast<double>(member.good) / member.calls; };
  std::vector<Entry*> counted, failing;
  for (Entry& entry : members_) {
    if (entry.second.calls >= options_.success_calls) counted.push_back(&entry);
    if (entry.second.calls >= options_.failure_calls) failing.push_back(&entry);
  }
  if (std::ssize(counted) >= options_.success_hosts) {
    double sum = 0, squares = 0;
    for (const Entry* entry : counted) sum += rate(entry->second);
    const double mean = sum / static_cast<double>(counted.size());
    for (const Entry* entry : counted) squares += (rate(entry->second) - mean) * (rate(entry->second) - mean);
    const double least = mean - options_.success_deviations * std::sqrt(squares / static_cast<double>(counted.size()));
    for (Entry* entry : counted)
      if (rate(entry->second) < least)
        eject(*entry, fmt::format("{:.1f} % good, where {:.1f} % is the least", rate(entry->second) * 100, least * 100),
              now);
  }
  if (std::ssize(failing) >= options_.failure_hosts)
    for (Entry* entry : failing)
      if (1 - rate(entry->second) >= options_.failure_share)
        eject(*entry, fmt::format("{:.0f} % failed", (1 - rate(entry->second)) * 100), now);
  for (auto& [name, member] : members_) {
    if (!member.out && member.times > 0) --member.times;
    member.calls = member.good = 0;
  }
}

std::vector<Outliers::Change> Outliers::changes() { return std::exchange(changes_, {}); }

}  // namespace ashlar::gateway
