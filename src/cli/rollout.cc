// ashlar rollout list, show, start, pause, resume, promote, rollback, shadow: versions on trial, of a server that runs.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "base/json_full.h"
#include "cli/admin_client.h"
#include "cli/commands.h"
#include "cli/subcommands.h"
#include "cli/table.h"
#include "cli/terminal.h"

namespace ashlar::cli {
namespace {

std::string path_of(const std::string& route) {
  std::string out = "/rollouts/";
  for (const char c : percent_encode(route)) out += c == '/' ? std::string("%2F") : std::string(1, c);
  return out;
}

// Members of what a server sent, which may be an older or a newer one.
std::string word(const Json& object, const char* name) {
  return object.is_object() && object.contains(name) && object[name].is_string()
             ? shown(object[name].get<std::string>())
             : "";
}
double figure(const Json& object, const char* name) {
  return object.is_object() && object.contains(name) && object[name].is_number() ? object[name].get<double>() : 0;
}
Json part(const Json& object, const char* name) {
  return object.is_object() && object.contains(name) ? object[name] : Json();
}

std::string percent(double share) { return fmt::format("{:.4g} %", 100 * share); }

// A table of what is known of both sides.
void print_sides(const Json& one, const Json& other, const char* first, const char* second) {
  Table table({"", first, second});
  const auto line = [&](const char* label, const std::function<std::string(const Json&)>& value) {
    table.add({label, value(one), value(other)});
  };
  if (part(one, "requests").is_number()) {
    line("requests", [](const Json& side) { return fmt::format("{:.0f}", figure(side, "requests")); });
    line("failed", [](const Json& side) {
      return fmt::format("{:.0f} ({})", figure(side, "errors"), percent(figure(side, "error_rate")));
    });
  } else {
    line("failed", [](const Json& side) { return fmt::format("{:.0f}", figure(side, "failed")); });
    line("mean tokens", [](const Json& side) { return fmt::format("{:.1f}", figure(side, "mean_tokens")); });
  }
  for (const auto& [label, name] :
       {std::pair{"first token", "ttft_seconds"}, std::pair{"between tokens", "itl_seconds"}})
    line(label, [member = name](const Json& side) {
      const Json times = part(side, member);
      return times.is_object() ? fmt::format("p50 {:.3g} s, p95 {:.3g} s", figure(times, "p50"), figure(times, "p95"))
                               : std::string();
    });
  if (part(one, "score").is_object() || part(other, "score").is_object())
    line("score", [](const Json& side) {
      const Json score = part(side, "score");
      return score.is_object() ? fmt::format("{:.3f} of {:.0f}", figure(score, "mean"), figure(score, "count"))
                               : std::string();
    });
  table.print();
}

void print_rollout(const Json& rollout) {
  const Palette colour = palette(stdout);
  fmt::print("{}{}{}  {}: {} gets {} of the requests (step {:.0f} of {})\n", colour.bold, word(rollout, "route"),
             colour.plain, word(rollout, "state"), word(rollout, "to"), percent(figure(rollout, "share")),
             figure(rollout, "step"), part(rollout, "steps").size());
  if (const std::string why = word(rollout, "why"); !why.empty()) fmt::print("  {}\n", why);
  fmt::print("\n");
  print_sides(part(rollout, "canary"), part(rollout, "stable"), "CANARY", "STABLE");
  const Json gates = part(rollout, "gates");
  if (!gates.empty()) fmt::print("\n");
  for (const Json& gate : gates) {
    const std::string state = word(gate, "state");
    fmt::print("  {}{:<10}{} {:<12} {}\n",
               state == "fails"    ? colour.red
               : state == "passes" ? colour.green
                                   : colour.dim,
               state, colour.plain, word(gate, "gate"), word(gate, "why"));
  }
}

void print_list(const Json& answer) {
  Table table({"ROUTE", "STATE", "SHARE", "STEP", "TO", "WHY"});
  for (const Json& each : part(answer, "rollouts"))
    table.add({word(each, "route"), word(each, "state"), percent(figure(each, "share")),
               fmt::format("{:.0f}/{}", figure(each, "step"), part(each, "steps").size()), word(each, "to"),
               word(each, "why")});
  if (table.empty())
    fmt::print("No route has a version on trial.\n");
  else
    table.print();
  for (const Json& each : part(answer, "shadows"))
    if (each.is_string())
      fmt::print("{} has a shadow: ashlar rollout shadow {}\n", shown(each.get<std::string>()),
                 shown(each.get<std::string>()));
}

void print_shadow(const Json& report) {
  const Palette colour = palette(stdout);
  const Json dropped = part(report, "dropped"), failures = part(report, "failures");
  fmt::print("{}{}{}  shadow of {} of the requests: {}\n", colour.bold, word(report, "route"), colour.plain,
             percent(figure(report, "share")), word(report, "to"));
  fmt::print(
      "  {:.0f} requests, {:.0f} copied, {:.0f} answered; not copied: {:.0f} too busy, {:.0f} of marked data; {:.0f} "
      "clients left\n",
      figure(report, "requests"), figure(report, "copied"), figure(report, "answered"), figure(dropped, "busy"),
      figure(dropped, "data_class"), figure(dropped, "client_left"));
  fmt::print("  failed: {:.0f} the shadow alone, {:.0f} the client's alone, {:.0f} both\n\n",
             figure(failures, "shadow_alone"), figure(failures, "client_alone"), figure(failures, "both"));
  print_sides(part(report, "client"), part(report, "shadow"), "CLIENT", "SHADOW");
  if (const Json compared = part(report, "compared"); compared.is_object()) {
    const Json greedy = part(compared, "at_temperature_0");
    fmt::print(
        "\n  {:.0f} compared: {:.0f} of the same text, {:.0f} that finished alike; {:.1f} % of the words agree, {:.1f} "
        "% from the beginning\n",
        figure(compared, "answers"), figure(compared, "same_text"), figure(compared, "same_finish_reason"),
        100 * figure(compared, "agreement"), 100 * figure(compared, "common_prefix"));
    fmt::print("  at temperature 0: {:.0f} of {:.0f} of the same text\n", figure(greedy, "same_text"),
               figure(greedy, "answers"));
  }
  for (const Json& each : part(report, "examples")) {
    fmt::print("\n{}prompt{}  {}\n", colour.dim, colour.plain, word(each, "prompt"));
    for (const char* side : {"client", "shadow"})
      fmt::print("{}{}{}  {} [{}]\n", colour.dim, side, colour.plain, word(part(each, side), "text"),
                 word(part(each, side), "finish_reason"));
  }
}

Status ask(const RemoteOptions& options, const std::string& method, const std::string& path, const Json& body,
           const std::function<void(const Json&)>& print) {
  const Json answer = TRY(ask_server(options, method, path, body));
  if (options.json)
    fmt::print("{}\n", dump_json(answer));
  else
    print(answer);
  return {};
}

Subcommand about_one(std::string name, std::string summary,
                     std::function<Status(const RemoteOptions&, const std::string& route)> action) {
  return {name, "ROUTE", summary, [name, summary, action](const Words& rest) {
            RemoteOptions options;
            std::string route;
            return run_line(
                {.name = "rollout " + name,
                 .summary = summary,
                 .positionals = {{.name = "ROUTE", .help = "A route's name.", .value = &route, .required = true}},
                 .options = list_options(options)},
                rest, [&] { return action(options, route); });
          }};
}

Subcommand change(const std::string& name, std::string summary) {
  return about_one(name, std::move(summary), [name](const RemoteOptions& options, const std::string& route) {
    return ask(options, "POST", path_of(route) + "/" + name, {}, print_rollout);
  });
}

struct RollbackOptions {
  std::string why;
  RemoteOptions remote;
  void fields(auto&& field) {
    field("why", why, "What the event log says of it.");
    remote.fields(field);
  }
};

int roll_back(const Words& rest) {
  RollbackOptions options;
  std::string route;
  return run_line({.name = "rollout rollback",
                   .summary = "No request goes to the version on trial from now on; it stays so until it is started.",
                   .examples = "Example:\n  ashlar rollout rollback chat --why 'it speaks French'",
                   .positionals = {{.name = "ROUTE", .help = "A route's name.", .value = &route, .required = true}},
                   .options = list_options(options)},
                  rest, [&] {
                    const Json body = options.why.empty() ? Json::object() : Json{{"why", options.why}};
                    return ask(options.remote, "POST", path_of(route) + "/rollback", body, print_rollout);
                  });
}

}  // namespace

int rollout(const Words& words) {
  const std::vector<Subcommand> all = {
      {"list", "", "every version on trial, and where it stands",
       [](const Words& rest) {
         RemoteOptions options;
         return run_line({.name = "rollout list",
                          .summary = "Every route's version on trial, and where it stands.",
                          .options = list_options(options)},
                         rest, [&] { return ask(options, "GET", "/rollouts", {}, print_list); });
       }},
      about_one("show", "one, with the figures of both sides and of each gate",
                [](const RemoteOptions& options, const std::string& route) {
                  return ask(options, "GET", path_of(route), {}, print_rollout);
                }),
      change("start", "begin at the first step, also one that was rolled back"),
      change("pause", "stay at this share; the gates still stand"),
      change("resume", "go on after a pause"),
      change("promote", "every request goes to the version on trial"),
      {"rollback", "ROUTE [--why TEXT]", "no request goes to it from now on", roll_back},
      about_one("shadow", "what the route's shadow answered, beside what its clients got",
                [](const RemoteOptions& options, const std::string& route) {
                  return ask(options, "GET", path_of(route) + "/shadow", {}, print_shadow);
                }),
  };
  return dispatch_subcommand("rollout", "Versions of models on trial: of a server that runs.", all, words);
}

}  // namespace ashlar::cli
