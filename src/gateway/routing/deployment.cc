#include "gateway/routing/deployment.h"

#include <array>
#include <utility>

namespace ashlar::gateway {
namespace {

constexpr std::array<std::pair<Strategy, std::string_view>, 6> kStrategies = {{
    {Strategy::weighted, "weighted"},
    {Strategy::least_outstanding, "least-outstanding"},
    {Strategy::latency, "latency"},
    {Strategy::prefix_ring, "prefix-ring"},
    {Strategy::prefix_index, "prefix-index"},
    {Strategy::cheapest, "cheapest"},
}};

}  // namespace

std::string_view name(Strategy strategy) {
  for (const auto& [known, text] : kStrategies)
    if (known == strategy) return text;
  return "";
}

std::optional<Strategy> strategy_of(std::string_view name) {
  for (const auto& [known, text] : kStrategies)
    if (text == name) return known;
  return std::nullopt;
}

std::vector<std::string> strategy_names() {
  std::vector<std::string> out;
  for (const auto& [known, text] : kStrategies) out.emplace_back(text);
  return out;
}

std::string_view name(Cause cause) {
  switch (cause) {
    case Cause::error:
      return "error";
    case Cause::context:
      return "context";
    case Cause::budget:
      return "budget";
    case Cause::policy:
      return "policy";
  }
  return "";
}

}  // namespace ashlar::gateway
