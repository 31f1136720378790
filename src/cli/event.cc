// ashlar event list: what happened to the server.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <set>
#include <thread>

#include "base/json_full.h"
#include "cli/interrupts.h"
#include "cli/subcommands.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/times.h"
#include "gateway/events/kept_events.h"
#include "store/database.h"
#include "store/usage.h"

namespace ashlar::cli {
namespace {

using gateway::KeptEvent;

struct EventOptions {
  std::string since, until, kind, subject, severity;
  int limit = 100;
  bool follow = false, json = false;
  store::StateOptions state = store::state_options_from_environment();
  void fields(auto&& field) {
    field("since", since, "Only from then on: 2026-11-01, 2026-11-01T08:00:00Z, or how long ago: 1h, 7d.");
    field("until", until, "Only before then.");
    field("kind", kind, "What the kind begins with: breaker, key.created.");
    field("subject", subject, "Whom it happened to.");
    field("severity", severity, "info, warning or error: this or worse.");
    field("limit", limit, "The last so many, 1 to 1,000.");
    field("follow", follow, "Go on with those that come, until Ctrl-C.");
    field("json", json, "For a script: a line of JSON each.");
    state.fields(field);
  }
};

void print_event(const KeptEvent& kept, bool json) {
  if (json) {
    fmt::print("{}\n", dump_json(gateway::json_of(kept)));
  } else {
    const gateway::OperatorEvent& event = kept.event;
    const Palette colour = palette(stdout);
    constexpr const char* kNone = "";
    const char* const shade = event.severity == gateway::Severity::error     ? colour.red
                              : event.severity == gateway::Severity::warning ? colour.yellow
                                                                             : kNone;
    fmt::print("{}{}{}  {}{:<20}{}  {:<24}  {}{}\n", colour.dim, store::utc_text_of_ms(event.at_ms).substr(0, 19) + "Z",
               colour.plain, shade, event.kind, colour.plain, event.subject.empty() ? "-" : shown(event.subject),
               shown(event.message), event.actor.empty() ? "" : fmt::format("  (by {})", shown(event.actor)));
  }
}

// Rows of several servers may appear in another order than that of their ids: the last ids are looked through again.
Status follow(const gateway::KeptEvents& events, gateway::EventFilter filter, std::int64_t last, bool json) {
  constexpr std::int64_t kBack = 100;
  std::set<std::int64_t> seen;
  filter.after = std::max<std::int64_t>(0, last - kBack);
  filter.limit = 1'000;
  bool first = true;
  while (!interrupted()) {
    auto page = TRY(events.list(filter)).events;
    std::ranges::reverse(page);
    for (const KeptEvent& each : page) {
      if (!seen.insert(each.id).second || (first && each.id <= last)) continue;
      print_event(each, json);
      last = std::max(last, each.id);
    }
    first = false;
    std::fflush(stdout);
    filter.after = std::max<std::int64_t>(0, last - kBack);
    seen.erase(seen.begin(), seen.lower_bound(filter.after));
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
  }
  return {};
}

Status list_events(const EventOptions& options) {
  gateway::EventFilter filter{.kind = options.kind, .subject = options.subject, .limit = options.limit};
  if (!options.since.empty()) filter.since_ms = TRY(parse_when(options.since));
  if (!options.until.empty()) filter.until_ms = TRY(parse_when(options.until));
  if (!options.severity.empty()) {
    const auto least = gateway::severity_of(options.severity);
    if (!least) return Error{Code::invalid, "--severity is info, warning or error"};
    filter.least = *least;
  }
  const std::string where = TRY(store::state_location(options.state));
  const auto database = TRY(store::open_database(where));
  const auto events = TRY(gateway::KeptEvents::open(database.get()));
  auto page = TRY(events->list(filter)).events;
  const std::int64_t last = page.empty() ? 0 : page.front().id;
  std::ranges::reverse(page);
  if (page.empty() && !options.json && !options.follow) fmt::print("There is no such event in {}.\n", database->name());
  for (const KeptEvent& each : page) print_event(each, options.json);
  std::fflush(stdout);
  if (!options.follow) return {};
  catch_interrupts();
  return follow(*events, filter, last, options.json);
}

}  // namespace

int event(const Words& words) {
  const std::vector<Subcommand> all = {
      {"list", "[--since 1h] [--kind K] [--follow] ...", "the last of them, the newest at the end",
       [](const Words& rest) {
         EventOptions options;
         return run_line(
             {.name = "event list",
              .summary = "What happened to the server: breakers, budgets, keys, models, configuration.",
              .examples = "Examples:\n  ashlar event list --since 1h\n  ashlar event list --kind breaker --follow\n"
                          "  ashlar event list --severity warning --json",
              .options = list_options(options)},
             rest, [&] { return list_events(options); });
       }}};
  return dispatch_subcommand(
      "event", "The event log: what happened to the server, and who asked for it. Kept for 90 days.", all, words);
}

}  // namespace ashlar::cli
