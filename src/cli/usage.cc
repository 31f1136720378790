// ashlar usage: what was used, by whom, and what it cost.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "base/json_full.h"
#include "cli/admin/records.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/times.h"
#include "store/usage.h"

namespace ashlar::cli {
namespace {

struct UsageOptions {
  std::string since, until, by, request;
  bool json = false, csv = false;
  store::StateOptions state = store::state_options_from_environment();
  void fields(auto&& field) {
    field("since", since, "Only from then on: 2026-11-01, 2026-11-01T08:00:00Z, or how long ago: 24h, 7d.");
    field("until", until, "Only before then.");
    field("by", by,
          "Sums by tenant, team, user, key, model, deployment, request, status, day or tag:NAME; several with commas.");
    field("request", request, "Only what was asked with this X-Request-Id.");
    field("json", json, "For a script: a line of JSON each; without --by, a line for each request.");
    field("csv", csv, "The same as CSV.");
    state.fields(field);
  }
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> all;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    all.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return all;
}

void print_json(const std::vector<std::string>& by, const std::vector<store::UsageSum>& sums) {
  for (const auto& sum : sums) fmt::print("{}\n", dump_json(json_of(sum, by)));
}

void print_csv(const std::vector<std::string>& by, const std::vector<store::UsageSum>& sums) {
  for (const std::string& each : by) fmt::print("{},", store::csv_text(each));
  fmt::print("requests,failed,prompt_tokens,cached_tokens,completion_tokens,reasoning_tokens,cost_nano_usd,cache_write_tokens\n");
  for (const auto& sum : sums) {
    for (const std::string& each : sum.by) fmt::print("{},", store::csv_text(each));
    fmt::print("{},{},{},{},{},{},{},{}\n", sum.requests, sum.failed, sum.prompt_tokens, sum.cached_tokens,
               sum.completion_tokens, sum.reasoning_tokens, sum.cost_nano, sum.cache_write_tokens);
  }
}

std::string safe(const std::string& text) { return text.empty() ? "-" : shown(text); }

void print_table(const std::vector<std::string>& by, const std::vector<store::UsageSum>& sums,
                 const store::UsageSum& all) {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < by.size(); ++i) {
    widths.push_back(std::max<std::size_t>(by[i].size(), i == 0 ? 5 : 1));
    for (const auto& sum : sums) widths[i] = std::max(widths[i], safe(sum.by[i]).size());
  }
  const auto line = [&](const std::vector<std::string>& names, const auto&... numbers) {
    for (std::size_t i = 0; i < by.size(); ++i) fmt::print("{:<{}}  ", i < names.size() ? names[i] : "", widths[i]);
    fmt::print("{:>10}  {:>8}  {:>14}  {:>14}  {:>14}  {:>16}", numbers...);
  };
  const Palette colour = palette(stdout);
  fmt::print("{}", colour.dim);
  line(by, "requests", "failed", "prompt", "of it cached", "completion", "cost in USD");
  fmt::print("{}\n", colour.plain);
  const auto row = [&](const std::vector<std::string>& names, const store::UsageSum& sum) {
    line(names, sum.requests, sum.failed, sum.prompt_tokens, sum.cached_tokens, sum.completion_tokens,
         store::dollars(sum.cost_nano));
    fmt::print("\n");
  };
  for (const auto& sum : sums) {
    std::vector<std::string> names;
    for (const std::string& each : sum.by) names.push_back(safe(each));
    row(names, sum);
  }
  fmt::print("{}", colour.bold);
  row({"total"}, all);
  fmt::print("{}", colour.plain);
}

Status print_rows(store::Database& database, const store::UsageFilter& filter, bool csv) {
  if (csv) fmt::print("{}", store::usage_csv_header());
  return store::each_usage(database, filter, [csv](const store::UsageRow& row) -> Status {
    const std::string line = csv ? store::usage_csv(row) : store::usage_json(row);
    if (std::fwrite(line.data(), 1, line.size(), stdout) == line.size()) return {};
    return Error{Code::io, "what was asked for could not be written"};
  });
}

Status print_usage(const UsageOptions& options) {
  if (options.json && options.csv) return Error{Code::invalid, "--json or --csv, not both"};
  store::UsageFilter filter;
  if (!options.since.empty()) filter.since_ms = TRY(parse_when(options.since));
  if (!options.until.empty()) filter.until_ms = TRY(parse_when(options.until));
  if (!options.request.empty()) filter.where.emplace_back("request", options.request);
  const std::string where = TRY(store::state_location(options.state));
  std::error_code failed;
  if (where.find("://") == std::string::npos && !std::filesystem::exists(where, failed))
    return Error{Code::not_found, fmt::format("{}: no request has been counted yet", where)};
  const auto database = TRY(store::open_database(where));
  TRY(store::migrate(*database, {&store::usage_schema(), 1}));
  const bool as_text = !options.json && !options.csv;
  if (!as_text && options.by.empty()) return print_rows(*database, filter, options.csv);
  const auto by = split(options.by.empty() ? "model" : options.by);
  const auto sums = TRY(store::sum_usage(*database, filter, by));
  if (options.json)
    print_json(by, sums);
  else if (options.csv)
    print_csv(by, sums);
  else
    print_table(by, sums, TRY(store::sum_usage(*database, filter, {})).at(0));
  return {};
}

}  // namespace

int usage(const Words& words) {
  UsageOptions options;
  CommandLine line{
      .name = "usage",
      .summary = "Requests, tokens and money: by model, key, team, tenant, day or any tag.",
      .examples =
          "Examples:\n  ashlar usage --since 7d --by team,model\n  ashlar usage --since 2026-11-01 --until "
          "2026-12-01 --csv > november.csv",
      .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = print_usage(options); !done) return fail("usage", done.error());
  return 0;
}

}  // namespace ashlar::cli
