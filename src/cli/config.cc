// ashlar config check: what is wrong with a configuration file, before a server reads it.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/serve_options.h"
#include "cli/terminal.h"
#include "gateway/routing/read_routes.h"

namespace ashlar::cli {
namespace {

Status check(const std::string& path) {
  ServeOptions options;
  auto listed = list_options(options);
  TRY(read_options_file(path, listed, kConfigSections));
  TRY(check_limits(options.metering.limits));
  const GatewayPlan plan = TRY(plan_gateway(options, path));
  const auto count = [](std::size_t n, std::string_view what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); };
  fmt::print("{}: fine; {}, {}\n", path, count(plan.upstreams.size(), "upstream"), count(plan.routes.groups.size(), "route"));
  return {};
}

}  // namespace

Result<GatewayPlan> plan_gateway(const ServeOptions& options, const std::string& config) {
  GatewayPlan plan{.routing = options.routing};
  auto& out = plan.upstreams;
  for (const std::string& flag : options.upstream) out.push_back(TRY(gateway::parse_upstream_flag(flag)));
  if (!config.empty())
    for (gateway::UpstreamOptions& each : TRY(gateway::read_upstreams(config))) out.push_back(std::move(each));
  for (auto one = out.begin(); one != out.end(); ++one)
    if (std::ranges::find(out.begin(), one, one->name, &gateway::UpstreamOptions::name) != one)
      return Error{Code::invalid, fmt::format("two upstreams are called '{}'", one->name)};
  if (!config.empty()) plan.routes = TRY(gateway::read_routes(config));
  return plan;
}

int config(const Words& words) {
  std::string what, path;
  CommandLine line{.name = "config",
                   .summary = "Check a configuration file of `ashlar serve`, all of it, without starting anything.",
                   .examples = "Example:\n  ashlar config check ashlar.yaml",
                   .positionals = {{.name = "check", .help = "The word `check`.", .value = &what, .required = true},
                                   {.name = "FILE", .help = "The YAML file.", .value = &path, .required = true}}};
  if (const auto status = parse(line, words)) return *status;
  if (what != "check") return fail("config", {Code::invalid, fmt::format("'{}' is not `check`", what)});
  if (const auto done = check(path); !done) return fail("config check", done.error());
  return 0;
}

}  // namespace ashlar::cli
