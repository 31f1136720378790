// What the router says of its models, and what it hands to the deployments that have them.
#include <algorithm>
#include <set>
#include <utility>

#include "base/json_full.h"
#include "engine/load_sum.h"
#include "engine/prefixes.h"
#include "gateway/routing/core.h"
#include "gateway/routing/router.h"

namespace ashlar::gateway {
namespace {

Error no_model(const std::string& model) { return {Code::not_found, "there is no model '" + model + "' here"}; }

// How its generator describes it; where it describes nothing, what is configured.
engine::ModelCard card_of(const Deployment& deployment) {
  engine::ModelCard card;
  if (auto known = deployment.generator->card(deployment.model))
    card = std::move(*known);
  else if (auto cards = deployment.generator->models(); !cards.empty())
    card = std::move(cards.front());
  if (deployment.context > 0)
    card.context = card.context > 0 ? std::min(card.context, deployment.context) : deployment.context;
  return card;
}

}  // namespace

std::vector<engine::ModelCard> Router::models() const {
  const RouteTable table = core_->table();
  std::map<std::string, engine::ModelCard> by_group;
  std::vector<engine::ModelCard> out;
  std::set<std::string> listed;
  const auto list = [&](engine::ModelCard card) {
    if (listed.insert(card.id).second) out.push_back(std::move(card));
  };
  const auto describe = [&](const Deployment& deployment) {
    engine::ModelCard card = card_of(deployment);
    card.id = deployment.group;
    // A request for the group may come to any of them: what the roomiest holds, it holds.
    auto& known = by_group.try_emplace(deployment.group, card).first->second;
    known.context = std::max(known.context, card.context);
  };
  for (const Deployment& deployment : table.deployments)
    if (!deployment.trial) describe(deployment);
  for (const Deployment& deployment : table.deployments)  // where a trial is all that there is
    if (deployment.trial && !by_group.contains(deployment.group)) describe(deployment);
  for (const Group& group : table.groups)
    if (group.tiers)
      if (const auto middle = by_group.find(group.tiers->middle); middle != by_group.end())
        by_group[group.name] = middle->second;
  for (const Group& group : table.groups) {
    const auto found = by_group.find(group.name);
    if (found == by_group.end()) continue;
    engine::ModelCard card = found->second;
    card.id = group.name;
    list(std::move(card));
  }
  for (const auto& [alias, group] : table.aliases) {
    const auto found = by_group.find(group);
    if (found == by_group.end()) continue;
    engine::ModelCard card = found->second;
    card.id = alias;
    card.alias_of = group;
    list(std::move(card));
  }
  for (const Deployment& deployment : table.deployments)
    for (engine::ModelCard& card : deployment.generator->models())
      if (!card.parent.empty()) list(std::move(card));
  return out;
}

std::optional<engine::ModelCard> Router::card(const std::string& model) const {
  const auto members = core_->members_of(model);
  if (members.empty()) return Generator::card(model);  // an adapter
  const bool only_trials = std::ranges::all_of(members, [](const auto& live) { return live->config.trial; });
  std::optional<engine::ModelCard> out;
  for (const auto& live : members) {
    if (live->config.trial && !only_trials) continue;
    engine::ModelCard card = card_of(live->config);
    if (!out)
      out = std::move(card);
    else
      out->context = std::max(out->context, card.context);
  }
  out->id = model;
  out->alias_of = core_->alias_of(model);
  return out;
}

std::optional<std::uint64_t> Router::names_version() const { return core_->names_version(); }

Result<engine::Tokenized> Router::tokenize(const std::string& model, const engine::Prompt& prompt,
                                           bool parse_special) const {
  std::string name;
  const auto live = core_->first_of(model, name);
  if (!live) return no_model(model);
  return live->config.generator->tokenize(name, prompt, parse_special);
}

Result<std::string> Router::detokenize(const std::string& model, const std::vector<std::int32_t>& ids) const {
  std::string name;
  const auto live = core_->first_of(model, name);
  if (!live) return no_model(model);
  return live->config.generator->detokenize(name, ids);
}

Result<std::string> Router::render(const std::string& model, const engine::Chat& chat) const {
  std::string name;
  const auto live = core_->first_of(model, name);
  if (!live) return no_model(model);
  return live->config.generator->render(name, chat);
}

namespace {

// A model under the name that routes have for it.
class Shown final : public engine::Generator {
 public:
  Shown(const engine::Generator& inner, std::string model) : inner_(inner), model_(std::move(model)) {}
  std::expected<std::unique_ptr<engine::Ticket>, Refusal> start(engine::Request, engine::Sink&) override {
    return std::unexpected(Refusal{.error = {Code::unsupported, "ask the router"}});
  }
  std::vector<engine::ModelCard> models() const override { return inner_.models(); }
  Result<engine::Tokenized> tokenize(const std::string&, const engine::Prompt& prompt,
                                     bool parse_special) const override {
    return inner_.tokenize(model_, prompt, parse_special);
  }
  Result<std::string> detokenize(const std::string&, const std::vector<std::int32_t>& ids) const override {
    return inner_.detokenize(model_, ids);
  }
  Result<std::string> render(const std::string&, const engine::Chat& chat) const override {
    return inner_.render(model_, chat);
  }
  Load load() const override { return inner_.load(); }

 private:
  const engine::Generator& inner_;
  const std::string model_;
};

}  // namespace

void Router::when_ready(const std::string& model, std::function<void(Result<const engine::Generator*>)> then) const {
  std::string name;
  const auto live = core_->first_of(model, name);
  if (!live) return then(no_model(model));
  live->config.generator->when_ready(
      name, [live, name, then = std::move(then)](const Result<const engine::Generator*>& ready) {
        if (!ready) return then(ready.error());
        const Shown shown(**ready, name);
        then(&shown);
      });
}

void Router::load_adapter(engine::AdapterOrder order, std::function<void(Status)> done) {
  std::string name;
  const auto live = core_->first_of(order.model, name);
  if (!live) return done(no_model(order.model));
  order.model = name;
  live->config.generator->load_adapter(std::move(order), std::move(done));
}

Status Router::unload_adapter(const std::string& name) {
  std::string there;
  const auto live = core_->first_of(name, there);
  if (!live) return no_model(name);
  return live->config.generator->unload_adapter(name);
}

engine::Generator::Load Router::load() const {
  Load sum;
  sum.healthy = false;
  for (const auto& live : core_->all()) {
    const Load each = live->config.generator->load();
    engine::add(sum, each);
    sum.healthy = sum.healthy || each.healthy;
  }
  return sum;
}

Json Router::state() const {
  Json out = Json::array();
  const TimePoint now = core_->now();
  std::map<std::string, std::size_t> prefixes;
  for (const auto& live : core_->all())
    if (const auto cache = live->config.generator->cached_prefixes(live->config.model))
      prefixes[live->config.name] = cache->size();
  core_->with_fleet([&](Fleet& fleet) {
    for (const auto& live : fleet.all()) {
      const Vitals& vitals = *live->vitals;
      Json each{{"name", live->config.name},
                {"group", live->config.group},
                {"label", live->config.label},
                {"weight", live->config.weight},
                {"breaker", name(vitals.breaker.state())},
                {"ejected", fleet.ejected(*live)},
                {"running", vitals.running},
                {"places", places(*live)},
                {"outstanding_tokens", vitals.outstanding.load(std::memory_order_relaxed)}};
      if (const auto seconds = vitals.first_token.value(now)) each["first_token_seconds"] = *seconds;
      if (const auto known = prefixes.find(live->config.name); known != prefixes.end())
        each["cached_prefixes"] = known->second;
      out.push_back(std::move(each));
    }
  });
  return out;
}

ResponseCache::Counts Router::cache_counts() const { return core_->cache_counts(); }

TimePoint Router::turn() { return core_->turn(); }

}  // namespace ashlar::gateway
