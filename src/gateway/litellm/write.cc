// Our words for it.
#include "gateway/litellm/importer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/contains.h"

namespace ashlar::gateway {
namespace {

std::string list(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& each : names) out += (out.empty() ? "" : ", ") + in_quotes(each);
  return out;
}

std::vector<std::string> names_of(const LitellmGroup& group) {
  std::vector<std::string> out = group.aliases;
  out.insert(out.begin(), group.name);
  return out;
}

void write_deployment(const Litellm& all, const LitellmDeployment& each, const std::string& group,
                      std::set<std::string>& names, std::string& out) {
  const std::string model = each.upstream + "/" + each.model;
  std::string line = "model: " + in_quotes(model);
  // The same model twice in a group: its deployments need names of their own.
  if (!names.insert(model).second) {
    int number = 2;
    while (!names.insert(fmt::format("{}#{}", model, number)).second) ++number;
    line += ", name: " + in_quotes(fmt::format("{}/{}#{}", group, model, number));
  }
  const double weight = each.weight > 0 ? each.weight : each.rpm > 0 ? each.rpm : each.tpm / 1000;
  if (weight > 0 && all.strategy == "weighted") line += ", weight: " + decimal(std::min(weight, 1e6));
  if (each.most > 0) line += fmt::format(", max_concurrent: {}", each.most);
  if (each.input) line += ", input_price: " + decimal(*each.input);
  if (each.output) line += ", output_price: " + decimal(*each.output);
  out += fmt::format("      - {{{}}}\n", line);
}

bool is_route(const Litellm& all, const std::string& name) {
  const auto found = std::ranges::find(all.groups, name, &LitellmGroup::name);
  return found != all.groups.end() && !found->embeds;
}

// Its models, those that make vectors by the names that clients know.
std::vector<std::string> models_of(const Litellm& all, const LitellmUpstream& upstream) {
  std::vector<std::string> out;
  for (const std::string& model : upstream.models) out.push_back(in_quotes(model));
  std::set<std::string> names(upstream.models.begin(), upstream.models.end());
  for (const LitellmGroup& group : all.groups) {
    const LitellmDeployment& only = group.deployments.front();
    if (!group.embeds || only.upstream != upstream.name) continue;
    for (const std::string& name : names_of(group))
      if (names.insert(name).second)
        out.push_back(fmt::format("{{name: {}, model: {}}}", in_quotes(name), in_quotes(only.model)));
  }
  return out;
}

// Those of a higher `order` are a route of their own, which the one before falls back to.
void write_group(const Litellm& all, const LitellmGroup& group, std::string& out) {
  std::map<int, std::vector<const LitellmDeployment*>> orders;
  for (const LitellmDeployment& each : group.deployments) orders[each.order].push_back(&each);
  const auto name_of = [&](std::size_t at) {
    return at == 0 ? group.name : fmt::format("{}@order-{}", group.name, at + 1);
  };
  std::size_t at = 0;
  for (const auto& [order, deployments] : orders) {
    out += fmt::format("  - name: {}\n    strategy: {}\n", in_quotes(name_of(at)), all.strategy);
    if (at == 0 && !group.aliases.empty()) out += fmt::format("    aliases: [{}]\n", list(group.aliases));
    out += "    deployments:\n";
    std::set<std::string> names;
    for (const LitellmDeployment* each : deployments) write_deployment(all, *each, name_of(at), names, out);
    auto fallbacks = group.fallbacks;
    std::vector<std::string>& error = fallbacks["error"];
    if (error.empty())
      for (const std::string& each : all.default_fallbacks)
        if (each != group.name && is_route(all, each)) error.push_back(each);
    if (at + 1 < orders.size()) error.insert(error.begin(), name_of(at + 1));
    std::vector<std::string> causes;
    for (const auto& [cause, to] : fallbacks)
      if (!to.empty()) causes.push_back(fmt::format("{}: [{}]", cause, list(to)));
    if (!causes.empty()) out += fmt::format("    fallbacks: {{{}}}\n", fmt::join(causes, ", "));
    ++at;
  }
}

}  // namespace

std::string Litellm::config(const std::string& limits_file) const {
  std::string out = "# Made of a LiteLLM proxy's configuration.\n";
  for (const auto& [name, value] : options) out += fmt::format("{}: {}\n", name, value);
  if (!limits_file.empty()) out += fmt::format("limits: {}\n", in_quotes(limits_file));
  if (!upstreams.empty()) out += "upstreams:\n";
  for (const LitellmUpstream& each : upstreams) {
    out += fmt::format("  - name: {}\n", in_quotes(each.name));
    for (const auto& [name, value] : each.members) out += fmt::format("    {}: {}\n", name, value);
    if (!each.lists) out += fmt::format("    models: [{}]\n", fmt::join(models_of(*this, each), ", "));
  }
  if (!std::ranges::all_of(groups, &LitellmGroup::embeds)) out += "routes:\n";
  for (const LitellmGroup& each : groups)
    if (!each.embeds) write_group(*this, each, out);
  return out;
}

// A group may use what its deployments may together, if that is said of each; it costs what its dearest does.
std::string Litellm::limits(LitellmReader& notes) const {
  std::string limits, prices;
  if (seats > 0) limits += fmt::format("  - {{scope: global, name: seats, kind: semaphore, capacity: {}}}\n", seats);
  for (const LitellmGroup& group : groups) {
    double rpm = 0, tpm = 0, input = 0, output = 0;
    bool all_rpm = true, all_tpm = true, priced = false;
    for (const LitellmDeployment& each : group.deployments) {
      rpm += each.rpm;
      tpm += each.tpm;
      all_rpm = all_rpm && each.rpm > 0;
      all_tpm = all_tpm && each.tpm > 0;
      priced = priced || each.input || each.output;
      input = std::max(input, each.input.value_or(0));
      output = std::max(output, each.output.value_or(0));
    }
    const auto rate = [&](double sum, bool all, const char* name, const char* measure) {
      if (sum <= 0) return;
      if (!all)
        return notes.note_line(0, fmt::format("litellm_params.{}", name),
                               fmt::format("left out for '{}': not all of its deployments say it", group.name));
      limits += fmt::format(
          "  - {{scope: model, who: {}, name: {}, kind: sliding_window, measure: {}, capacity: {}, period: 1m}}\n",
          in_quotes(group.name), name, measure, std::llround(std::min(sum, 1e12)));
    };
    rate(rpm, all_rpm, "rpm", "requests");
    rate(tpm, all_tpm, "tpm", "tokens");
    for (const std::string& name : names_of(group))
      if (priced)
        prices += fmt::format("  - {{model: {}, input: \"{}\", output: \"{}\"}}\n", in_quotes(name), decimal(input),
                              decimal(output));
  }
  std::string out;
  if (!limits.empty()) out += "limits:\n" + limits;
  if (!prices.empty()) out += "prices:  # dollars for a million tokens\n" + prices;
  return out;
}

}  // namespace ashlar::gateway
