#include "gateway/routing/read_routes.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "base/contains.h"
#include "base/nearest.h"
#include "gateway/rollout/read_plan.h"
#include "gateway/section.h"

namespace ashlar::gateway {
namespace {

constexpr std::size_t kMostRoutes = 1000, kMostDeployments = 1000;
constexpr int kUnsaid = -1;               // max_concurrent
constexpr double kMostDollars = 1e6;      // for a million tokens
constexpr double kNanosPerDollar = 1000;  // for a million tokens, in nano-dollars for one

std::int64_t nanos_of(double dollars_per_million) {
  return static_cast<std::int64_t>(std::llround(dollars_per_million * kNanosPerDollar));
}

class RoutesReader {
 public:
  RoutesReader(Section& section, const ServedModels& served) : section_(section), served_(served) {}

  void route(const YAML::Node& node) {
    Group group;
    std::vector<std::string> aliases;
    section_.each(node,
                  {{"name", section_.text("name", group.name)},
                   {"aliases", section_.texts("aliases", aliases)},
                   {"strategy", strategy(group.strategy)},
                   {"sticky", section_.flag("sticky", group.sticky)},
                   {"deployments",
                    [&](const YAML::Node& list) {
                      section_.items(list, "deployments", kMostDeployments,
                                     [&](const YAML::Node& item) { deployment(item); });
                    }},
                   {"fallbacks", [&](const YAML::Node& map) { fallbacks(map, group); }},
                   {"target", [&](const YAML::Node& map) { target(map, group); }},
                   {"capacity", section_.number("capacity", group.tokens_per_second, 0, 1e9)},
                   {"rollout", [&](const YAML::Node& map) { rollout(map, group); }},
                   {"shadow", [&](const YAML::Node& map) { group.shadow = read_shadow(section_, map); }},
                   {"tiers", [&](const YAML::Node& map) { tiers(map, group); }}},
                  "a route");
    if (!is_config_name(group.name)) section_.fail(node, "a route needs a 'name', a word without blanks");
    if (group.tiers && !mine_.empty()) section_.fail(node, "a route has either 'deployments' or 'tiers'");
    if (!group.tiers && mine_.empty()) section_.fail(node, "a route needs 'deployments', or 'tiers'");
    for (const std::string& alias : aliases)
      if (!table.aliases.emplace(alias, group.name).second)
        section_.fail(node, fmt::format("the alias '{}' stands twice", alias));
    if (group.tiers && (group.rollout || group.shadow))
      section_.fail(node, "a route with 'tiers' has no 'rollout' or 'shadow': the routes that it leads to may");
    if (group.rollout) put_on_trial(node, *group.rollout);
    finish(node, std::move(group));
  }

  // Once all routes are known: where they lead.
  void check() {
    for (std::size_t i = 0; i < table.groups.size(); ++i) {
      const auto leads = [&](const char* what, const std::string& to) {
        if (!to.empty() && !contains(table.groups, to, &Group::name))
          section_.fail(nodes_[i], fmt::format("a {} leads to '{}', which is no route", what, to));
      };
      for (const auto& [cause, names] : table.groups[i].fallbacks)
        for (const std::string& each : names) leads("fallback", each);
      const auto& tiers = table.groups[i].tiers;
      if (!tiers) continue;
      for (const std::string& each : {tiers->low, tiers->middle, tiers->high}) {
        leads("tier", each);
        const auto to = std::ranges::find(table.groups, each, &Group::name);
        if (to != table.groups.end() && to->tiers)
          section_.fail(nodes_[i], fmt::format("a tier leads to '{}', which has tiers itself", each));
      }
    }
  }

  RouteTable table;

 private:
  struct Read {
    Deployment deployment;
    YAML::Node node;
  };

  // The route is read, its deployments too: they are put in the table together.
  void finish(const YAML::Node& node, Group group) {
    const bool twice = contains(table.groups, group.name, &Group::name);
    if (twice) section_.fail(node, fmt::format("two routes are called '{}'", group.name));
    for (auto& [each, line] : mine_) {
      if (served_ && !served_(each.model))
        section_.fail(line, fmt::format("nobody serves a model '{}': no upstream here has it among its 'models', and "
                                        "it is none of ours",
                                        each.model));
      each.group = group.name;
      each.between_tokens = between_tokens_;
      if (each.max_concurrent == kUnsaid) {
        each.max_concurrent = 0;
        each.adaptive = group.first_token.count() > 0 || between_tokens_.count() > 0;
      }
      if (each.name.empty()) each.name = fmt::format("{}/{}", group.name, each.model);
      if (!names_.insert(each.name).second && !twice)
        section_.fail(line, fmt::format("two deployments are called '{}': give one of them another 'name'", each.name));
      if (group.rollout && each.trial) group.rollout->to = each.name;
      if (group.rollout && each.label.empty()) each.label = each.trial ? "canary" : "stable";
      table.deployments.push_back(std::move(each));
    }
    mine_.clear();
    between_tokens_ = {};
    nodes_.push_back(node);
    table.groups.push_back(std::move(group));
  }

  Section::Read strategy(Strategy& out) {
    return [this, &out](const YAML::Node& node) {
      std::string word = node.IsScalar() ? node.Scalar() : "";
      std::ranges::replace(word, '_', '-');
      if (const auto found = strategy_of(word)) return void(out = *found);
      const std::vector<std::string> all = strategy_names();
      section_.fail(node, fmt::format("no strategy is called {}{}; there are {}", shape_of(node),
                                      did_you_mean(word, all), fmt::join(all, ", ")));
    };
  }

  void target(const YAML::Node& node, Group& group) {
    section_.each(node,
                  {{"first_token", section_.duration("first_token", group.first_token)},
                   {"between_tokens", section_.duration("between_tokens", between_tokens_)}},
                  "'target'");
  }

  void deployment(const YAML::Node& node) { mine_.push_back({read_deployment(node), node}); }

  // A number, 0 for none, or `auto`.
  void most_concurrent(const YAML::Node& value, Deployment& out) {
    out.adaptive = value.IsScalar() && value.Scalar() == "auto";
    out.max_concurrent = 0;
    if (!out.adaptive) section_.whole("max_concurrent", out.max_concurrent, 0, 1'000'000)(value);
  }

  Deployment read_deployment(const YAML::Node& node) {
    Deployment out{.max_concurrent = kUnsaid};
    double input = 0, output = 0;
    if (node.IsScalar())
      out.model = node.Scalar();
    else
      section_.each(node,
                    {{"name", section_.text("name", out.name)},
                     {"model", section_.text("model", out.model)},
                     {"weight", section_.number("weight", out.weight, 0, 1e6)},
                     {"data_classes", section_.classes("data_classes", out.data_classes)},
                     {"input_price", section_.number("input_price", input, 0, kMostDollars)},
                     {"output_price", section_.number("output_price", output, 0, kMostDollars)},
                     {"context", section_.whole("context", out.context, 1, 100'000'000)},
                     {"max_concurrent", [&](const YAML::Node& value) { most_concurrent(value, out); }},
                     {"label", section_.text("label", out.label)}},
                    "a deployment");
    if (!is_config_name(out.model))
      section_.fail(node, "a deployment should be the name of a served model, or {model: NAME, weight: 2}");
    out.input_nanos = nanos_of(input);
    out.output_nanos = nanos_of(output);
    return out;
  }

  void rollout(const YAML::Node& node, Group& group) {
    trial_.reset();
    group.rollout = read_rollout(section_, node, [&](const YAML::Node& to) { trial_ = {read_deployment(to), to}; });
    if (!trial_) section_.fail(node, "a rollout needs 'to', the model on trial");
  }

  // One of the deployments that stand there, by its name or model, or a further one.
  void put_on_trial(const YAML::Node& node, RolloutPlan& plan) {
    if (!trial_) return;
    const std::string& to = trial_->deployment.model;
    if (plan.version.empty()) plan.version = to;
    auto found = std::ranges::find_if(mine_, [&](const Read& each) {
      return (!each.deployment.name.empty() && each.deployment.name == to) || each.deployment.model == to;
    });
    if (mine_.empty() || (mine_.size() == 1 && found != mine_.end()))
      section_.fail(node, "a rollout needs 'deployments' beside the model on trial, which are the stable ones");
    if (found == mine_.end()) found = mine_.insert(mine_.end(), std::move(*trial_));
    found->deployment.trial = true;
    trial_.reset();
  }

  void fallbacks(const YAML::Node& node, Group& group) {
    Section::Readers readers;
    for (const Cause cause : {Cause::error, Cause::context, Cause::budget, Cause::policy})
      readers.emplace(name(cause), section_.texts(std::string(name(cause)), group.fallbacks[cause]));
    section_.each(node, readers, "'fallbacks'");
    std::erase_if(group.fallbacks, [](const auto& each) { return each.second.empty(); });
  }

  void tiers(const YAML::Node& node, Group& group) {
    Tiers out;
    section_.each(node,
                  {{"low", section_.text("low", out.low)},
                   {"middle", section_.text("middle", out.middle)},
                   {"high", section_.text("high", out.high)},
                   {"middle_from", section_.number("middle_from", out.middle_from, 0, 1)},
                   {"high_from", section_.number("high_from", out.high_from, 0, 1)}},
                  "'tiers'");
    if (out.low.empty() || out.middle.empty() || out.high.empty())
      section_.fail(node, "'tiers' should name three routes: low, middle and high");
    if (!(out.middle_from <= out.high_from)) section_.fail(node, "'middle_from' should not be above 'high_from'");
    group.tiers = std::move(out);
  }

  Section& section_;
  const ServedModels& served_;
  std::vector<Read> mine_;  // of the route being read
  std::optional<Read> trial_;
  std::chrono::milliseconds between_tokens_{0};  // of the route being read, as the two before
  std::vector<YAML::Node> nodes_;                // of each route
  std::set<std::string> names_;                  // of all deployments
};

}  // namespace

Result<RouteTable> parse_routes(const std::string& text, const std::string& path, const ServedModels& served) {
  RouteTable table;
  TRY(read_section(text, path, "routes", [&](Section& section, const YAML::Node& list) {
    RoutesReader reader(section, served);
    section.items(list, "routes", kMostRoutes, [&](const YAML::Node& item) { reader.route(item); });
    reader.check();
    table = std::move(reader.table);
  }));
  return table;
}

Result<RouteTable> read_routes(const std::string& path, const ServedModels& served) {
  const std::string text = TRY(read_config_text(path));
  return parse_routes(text, path, served);
}

}  // namespace ashlar::gateway
