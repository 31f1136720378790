#include "gateway/routing/trace.h"

#include <fmt/format.h>

#include "base/json_full.h"

namespace ashlar::gateway {
namespace {

// Names come from a configuration or a request; a header is no place for what may end it.
std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 128)) out += c > ' ' && c < 0x7f && c != ',' && c != ';' ? c : '_';
  return out;
}

Json json_of(const RouteTry& each) {
  Json out{
      {"deployment", each.deployment}, {"group", each.group}, {"outcome", each.outcome}, {"ms", each.milliseconds}};
  if (!each.label.empty()) out["label"] = each.label;
  if (each.cause) out["cause"] = name(*each.cause);
  if (!each.code.empty()) out["code"] = each.code;
  if (!each.detail.empty()) out["detail"] = each.detail;
  return out;
}

}  // namespace

std::string RouteTrace::answered_by() const {
  return !tries.empty() && tries.back().outcome == "ok" ? tries.back().deployment : "";
}

RouteTrace RouteTrace::joined_by(std::string own) const {
  RouteTrace out = *this;
  out.id = std::move(own);
  out.cache = "joined";
  return out;
}

Json RouteTrace::json() const {
  Json out{{"id", id}, {"model", model}, {"group", group}, {"strategy", strategy}};
  if (!tier.empty()) out["tier"] = tier;
  if (complexity) {
    Json parts = Json::object();
    for (const auto& [part, value] : complexity->parts) parts[part] = value;
    out["complexity"] = {{"score", complexity->score}, {"parts", std::move(parts)}};
  }
  if (!cache.empty()) out["cache"] = cache;
  if (!choice.empty()) out["choice"] = choice;
  if (cached >= 0) out["cached_tokens"] = cached;
  if (waited_milliseconds > 0) out["waited_ms"] = waited_milliseconds;
  Json list = Json::array();
  for (const RouteTry& each : tries) list.push_back(json_of(each));
  out["tries"] = std::move(list);
  return out;
}

std::string RouteTrace::header() const {
  std::string out = fmt::format("group={}", printable(group));
  if (!strategy.empty()) out += fmt::format(" strategy={}", printable(strategy));
  if (!tier.empty()) out += fmt::format(" tier={}", printable(tier));
  if (complexity) out += fmt::format(" complexity={:.2f}", complexity->score);
  if (!cache.empty()) out += fmt::format(" cache={}", printable(cache));
  if (!choice.empty()) out += fmt::format(" choice={}", printable(choice));
  if (cached >= 0) out += fmt::format(" cached={}", cached);
  for (std::size_t i = 0; i < tries.size(); ++i) {
    const RouteTry& each = tries[i];
    out += fmt::format("{}{}:{}", i == 0 ? " tries=" : ",", printable(each.deployment),
                       each.outcome.empty() ? "running" : each.outcome);
    if (each.outcome != "ok" && !each.code.empty()) out += '/' + printable(each.code);
  }
  return out;
}

}  // namespace ashlar::gateway
