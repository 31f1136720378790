#include "gateway/rollout/read_plan.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostSteps = 100, kMostGates = 32, kLongestPrompt = 16 << 10;

std::optional<double> number_of(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc{} || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

// "5%" or 0.05, with a sign or without.
std::optional<double> share_of(const YAML::Node& node) {
  if (!node.IsScalar()) return std::nullopt;
  std::string_view text = node.Scalar();
  const bool percent = text.ends_with('%');
  if (percent) text.remove_suffix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  const auto value = number_of(text);
  if (!value) return std::nullopt;
  return percent ? *value / 100 : *value;
}

bool is_off(const YAML::Node& node) {
  bool on = true;
  return node.IsNull() ||
         (node.IsScalar() && (node.Scalar() == "off" || (YAML::convert<bool>::decode(node, on) && !on)));
}

Section::Read share(Section& section, std::string name, double& out) {
  return [&section, name = std::move(name), &out](const YAML::Node& node) {
    const auto value = share_of(node);
    if (!value || *value <= 0 || *value > 1)
      return section.fail(node, fmt::format("'{}' should be a share above 0 and at most 100%, as 5% or 0.05", name));
    out = *value;
  };
}

Section::Read choice(Section& section, std::string name, std::string yes, std::string no, bool& out) {
  return [&section, name = std::move(name), yes = std::move(yes), no = std::move(no), &out](const YAML::Node& node) {
    if (!node.IsScalar() || (node.Scalar() != yes && node.Scalar() != no))
      return section.fail(node, fmt::format("'{}' should be {} or {}", name, yes, no));
    out = node.Scalar() == yes;
  };
}

void read_steps(Section& section, const YAML::Node& node, std::vector<double>& out) {
  std::vector<double> steps;
  section.items(node, "steps", kMostSteps, [&](const YAML::Node& item) {
    double step = 0;
    share(section, "steps", step)(item);
    if (step > 0 && !steps.empty() && step <= steps.back()) section.fail(item, "'steps' should rise");
    if (step > 0) steps.push_back(step);
  });
  if (steps.empty()) return section.fail(node, "'steps' should be a list of shares, as [1%, 10%, 100%]");
  out = std::move(steps);
}

// "ttft_p95": a quantile of the time to the first token; "itl_p50": of that between tokens.
std::optional<LatencyGate> gate_of(const std::string& name) {
  LatencyGate gate{.name = name};
  std::string_view rest = name;
  if (rest.starts_with("ttft_p"))
    gate.first_token = true;
  else if (!rest.starts_with("itl_p"))
    return std::nullopt;
  rest.remove_prefix(gate.first_token ? 6 : 5);
  const auto percent = number_of(rest);
  if (rest.empty() || !percent || *percent < 1 || *percent > 99) return std::nullopt;
  gate.quantile = *percent / 100;
  return gate;
}

void read_gate(Section& section, const std::string& name, const YAML::Node& value, Gates& gates) {
  if (name == "error_rate") {
    gates.error_rate.reset();
    if (is_off(value)) return;
    const auto more = share_of(value);
    if (!more || *more < 0 || *more > 1)
      return section.fail(value, "'error_rate' should be how much above the stable one, as +1%, or off");
    gates.error_rate = more;
  } else if (name == "score") {
    gates.score.reset();
    if (is_off(value)) return;
    const auto less = share_of(value);
    if (!less || *less > 0 || *less < -1)
      return section.fail(value, "'score' should be how much below the stable one, as -0.05, or off");
    gates.score = -*less;
  } else if (auto gate = gate_of(name)) {
    std::erase_if(gates.latencies, [&](const LatencyGate& each) { return each.name == name; });
    if (is_off(value)) return;
    std::string_view text = value.IsScalar() ? std::string_view(value.Scalar()) : std::string_view();
    if (text.ends_with('x')) text.remove_suffix(1);
    const auto ratio = number_of(text);
    if (!ratio || *ratio < 1 || *ratio > 1000)
      return section.fail(value, fmt::format("'{}' should be how many times the stable one, as 1.5x, or off", name));
    gate->ratio = *ratio;
    gates.latencies.push_back(std::move(*gate));
  } else {
    section.fail(
        value,
        fmt::format("no gate is called '{}': there are error_rate, score, ttft_p50 to ttft_p99 and itl_p50 to itl_p99",
                    name));
  }
}

void read_gates(Section& section, const YAML::Node& node, Gates& out) {
  section.pairs(node, "gates", kMostGates,
                [&](const std::string& name, const YAML::Node& value) { read_gate(section, name, value, out); });
}

JudgePlan read_judge(Section& section, const YAML::Node& node) {
  JudgePlan out;
  section.each(node,
               {{"model", section.text("model", out.model)},
                {"prompt", section.paragraph("prompt", out.prompt)},
                {"share", share(section, "share", out.share)},
                {"concurrency", section.whole("concurrency", out.concurrency, 1, 100)},
                {"most_per_hour", section.whole("most_per_hour", out.most_per_hour, 1, 1'000'000)},
                {"max_tokens", section.whole("max_tokens", out.max_tokens, 1, 16'384)},
                {"timeout", section.duration("timeout", out.timeout)},
                {"data_classes", section.classes("data_classes", out.data_classes)}},
               "a judge");
  if (!is_config_name(out.model)) section.fail(node, "a judge needs 'model', the name of a served model");
  if (!out.prompt.empty() && out.prompt.find("{answer}") == out.prompt.npos)
    section.fail(node, "a judge's 'prompt' should have {answer} in it, where the answer is to stand");
  if (out.prompt.size() > kLongestPrompt)
    section.fail(node, fmt::format("a judge's 'prompt' has more than {} bytes", kLongestPrompt));
  return out;
}

}  // namespace

RolloutPlan read_rollout(Section& section, const YAML::Node& node, const Section::Read& to) {
  RolloutPlan out;
  section.each(node,
               {{"to", to},
                {"version", section.text("version", out.version)},
                {"steps", [&](const YAML::Node& list) { read_steps(section, list, out.steps); }},
                {"hold", section.duration("hold", out.hold)},
                {"minimum_requests", section.whole("minimum_requests", out.minimum_requests, 1, 100'000'000)},
                {"minimum_scores", section.whole("minimum_scores", out.minimum_scores, 1, 100'000'000)},
                {"sticky", section.flag("sticky", out.sticky)},
                {"gates", [&](const YAML::Node& map) { read_gates(section, map, out.gates); }},
                {"judge", [&](const YAML::Node& map) { out.judge = read_judge(section, map); }},
                {"on_finish", choice(section, "on_finish", "promote", "wait", out.promote)},
                {"begin", choice(section, "begin", "automatic", "manual", out.automatic)}},
               "a rollout");
  return out;
}

ShadowPlan read_shadow(Section& section, const YAML::Node& node) {
  ShadowPlan out;
  section.each(node,
               {{"to", section.text("to", out.to)},
                {"share", share(section, "share", out.share)},
                {"compare", section.flag("compare", out.compare)},
                {"keep_texts", section.flag("keep_texts", out.keep_texts)},
                {"examples", section.whole("examples", out.examples, 0, 1000)},
                {"concurrency", section.whole("concurrency", out.concurrency, 1, 10'000)},
                {"timeout", section.duration("timeout", out.timeout)},
                {"data_classes", section.classes("data_classes", out.data_classes)}},
               "a shadow");
  if (!is_config_name(out.to)) section.fail(node, "a shadow needs 'to', the name of a served model");
  return out;
}

}  // namespace ashlar::gateway
