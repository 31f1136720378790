// ashlar model, route, status, and `ashlar upstream list`: what a server that runs says of itself.
#include <fmt/format.h>

#include "base/bytes.h"
#include "base/json_full.h"
#include "cli/admin_client.h"
#include "cli/serving.h"
#include "cli/subcommands.h"
#include "cli/table.h"

namespace ashlar::cli {
namespace {

// A member as a person reads it; "" where there is none.
std::string cell(const Json& row, const char* name) {
  const auto found = row.find(name);
  if (found == row.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_number_float()) return fmt::format("{:.3g}", found->get<double>());
  if (!found->is_array()) return dump_json(*found);
  std::string out;
  for (const Json& each : *found)
    out += (out.empty() ? "" : ", ") + (each.is_string() ? each.get<std::string>() : dump_json(each));
  return out;
}

struct Column {
  const char* heading;
  const char* member;
};

// The list `name` of what the server answers to GET `path`.
Status print_list(const RemoteOptions& remote, const std::string& path, const char* name,
                  const std::vector<Column>& columns, const char* nothing) {
  const Json answer = TRY(ask_server(remote, "GET", path));
  const auto list = answer.find(name);
  if (list == answer.end() || !list->is_array()) return Error{Code::corrupt, "the server's answer has no such list"};
  if (remote.json) {
    fmt::print("{}\n", dump_json(*list));
    return {};
  }
  std::vector<std::string> headings;
  for (const Column& each : columns) headings.emplace_back(each.heading);
  Table table(std::move(headings));
  for (const Json& row : *list) {
    std::vector<std::string> cells;
    for (const Column& each : columns) cells.push_back(cell(row, each.member));
    table.add(std::move(cells));
  }
  if (table.empty())
    fmt::print("{}\n", nothing);
  else
    table.print();
  return {};
}

int run_list(const Words& words, const char* name, const char* summary, const char* path, const char* member,
             const std::vector<Column>& columns, const char* nothing) {
  RemoteOptions remote;
  return run_line({.name = name, .summary = summary, .options = list_options(remote)}, words,
                  [&] { return print_list(remote, path, member, columns, nothing); });
}

// `what`: load or unload.
int run_memory(const Words& words, const std::string& what, const char* summary) {
  RemoteOptions remote;
  std::string model;
  return run_line(
      {.name = "model " + what,
       .summary = summary,
       .positionals = {{.name = "MODEL", .help = "As the server calls it.", .value = &model, .required = true}},
       .options = list_options(remote)},
      words, [&]() -> Status {
        const Json answer = TRY(ask_server(remote, "POST", "/models/" + percent_encode(model) + "/" + what));
        if (remote.json)
          fmt::print("{}\n", dump_json(answer));
        else
          fmt::print("{} {}\n", cell(answer, "state"), shown(cell(answer, "id")));
        return {};
      });
}

int run_force(const Words& words, const char* name, const char* summary, const char* mode) {
  RemoteOptions remote;
  std::vector<std::string> deployments;
  return run_line(
      {.name = name,
       .summary = summary,
       .positionals =
           {{.name = "DEPLOYMENT", .help = "As `ashlar route list` shows it.", .rest = &deployments, .required = true}},
       .options = list_options(remote)},
      words, [&]() -> Status {
        for (const std::string& each : deployments) {
          TRY(ask_server(remote, "PUT", "/routes/" + percent_encode(each) + "/breaker", {{"breaker", mode}}));
          if (remote.json)
            fmt::print("{}\n", dump_json({{"deployment", each}, {"breaker", mode}}));
          else
            fmt::print("{} {}\n", mode, shown(each));
        }
        return {};
      });
}

}  // namespace

int list_upstreams(const Words& words) {
  return run_list(
      words, "upstream list", "The upstreams of a running server, and why one is down.", "/upstreams", "upstreams",
      {{"UPSTREAM", "name"}, {"STATE", "state"}, {"RUNNING", "running"}, {"MODELS", "models"}, {"TROUBLE", "trouble"}},
      "The server has no upstreams.");
}

int model(const Words& words) {
  const std::vector<Subcommand> all = {
      {"list", "[--json]", "what is served, and whether it is in memory",
       [](const Words& rest) {
         return run_list(
             rest, "model list", "What a running server serves by name, and whether it is in memory.", "/models",
             "models",
             {{"MODEL", "id"}, {"STATE", "state"}, {"CONTEXT", "context"}, {"PARENT", "parent"}, {"OWNER", "owner"}},
             "The server serves no model now.");
       }},
      {"load", "MODEL", "bring it into memory",
       [](const Words& rest) {
         return run_memory(rest, "load", "Bring a model of a running server into its memory before somebody asks for it.");
       }},
      {"unload", "MODEL", "have it leave memory", [](const Words& rest) {
         return run_memory(rest, "unload",
                           "Have a model leave a running server's memory with its last request, until somebody asks for it.");
       }}};
  return dispatch_subcommand("model", "The models of a server that runs. (Those on this disk: ashlar list.)", all,
                             words);
}

int route(const Words& words) {
  const std::vector<Subcommand> all = {
      {"list", "[--json]", "the deployments of every route",
       [](const Words& rest) {
         return run_list(rest, "route list", "The deployments of every route of a running server.", "/routes", "routes",
                         {{"DEPLOYMENT", "name"},
                          {"ROUTE", "group"},
                          {"LABEL", "label"},
                          {"WEIGHT", "weight"},
                          {"BREAKER", "breaker"},
                          {"EJECTED", "ejected"},
                          {"RUNNING", "running"},
                          {"TOKENS LEFT", "outstanding_tokens"},
                          {"FIRST TOKEN (s)", "first_token_seconds"}},
                         "The server has no routes.");
       }},
      {"open", "DEPLOYMENT...", "hold the breaker open: it gets no requests",
       [](const Words& rest) {
         return run_force(rest, "route open", "Hold breakers open: these deployments get no requests.", "open");
       }},
      {"close", "DEPLOYMENT...", "hold the breaker closed, whatever happens",
       [](const Words& rest) {
         return run_force(rest, "route close", "Hold breakers closed, whatever happens.", "closed");
       }},
      {"auto", "DEPLOYMENT...", "leave it to its triggers again", [](const Words& rest) {
         return run_force(rest, "route auto", "Leave breakers to their triggers again.", "auto");
       }}};
  return dispatch_subcommand("route", "The routes of a server that runs, and their breakers.", all, words);
}

int status(const Words& words) {
  RemoteOptions remote;
  return run_line(
      {.name = "status", .summary = "What a running server says of itself.", .options = list_options(remote)}, words,
      [&]() -> Status {
        const Json answer = TRY(ask_server(remote, "GET", "/status"));
        if (remote.json) {
          fmt::print("{}\n", dump_json(answer));
          return {};
        }
        for (const auto& [name, value] : answer.items()) {
          const std::string text = cell(answer, name.c_str());
          if (!text.empty()) fmt::print("  {:<14}{}\n", shown(name), shown(text));
        }
        return {};
      });
}

}  // namespace ashlar::cli
