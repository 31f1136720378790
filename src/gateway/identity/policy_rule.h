// A rule of a Policy as it lies in memory: read_policy.cc makes it, policy.cc asks it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/identity/network.h"

namespace ashlar::gateway {

constexpr int kMinutesOfDay = 24 * 60;

struct TimeWindow {
  std::array<bool, 7> days{};        // Monday is 0
  int from = 0, to = kMinutesOfDay;  // minutes of the day

  bool holds(std::int64_t unix_seconds) const {
    const std::int64_t minutes = (unix_seconds >= 0 ? unix_seconds : unix_seconds - 59) / 60;
    const auto day_number = (minutes >= 0 ? minutes : minutes - (kMinutesOfDay - 1)) / kMinutesOfDay;
    const auto minute = static_cast<int>(minutes - day_number * kMinutesOfDay);
    const auto day = static_cast<std::size_t>(((day_number + 3) % 7 + 7) % 7);  // 1 January 1970 was a Thursday
    if (from <= to) return days[day] && minute >= from && minute < to;
    return (days[day] && minute >= from) || (days[(day + 6) % 7] && minute < to);
  }
};

struct Conditions {
  std::vector<std::pair<std::string, std::vector<std::string>>> texts;  // by attribute
  std::vector<std::pair<std::string, std::vector<std::string>>> tags;   // by tag
  std::vector<Network> sources;
  std::optional<TimeWindow> time;

  bool empty() const { return texts.empty() && tags.empty() && sources.empty() && !time; }
};

struct PolicyRule {
  std::string name;
  bool denies = false;
  Conditions when, unless;
};

}  // namespace ashlar::gateway
