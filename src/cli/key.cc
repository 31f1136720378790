// ashlar key create, list, show, rotate, block, unblock, delete.
#include <fmt/format.h>

#include <functional>
#include <utility>

#include "base/json_full.h"
#include "cli/admin/records.h"
#include "cli/kept_keys.h"
#include "cli/subcommands.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/times.h"

namespace ashlar::cli {
namespace {

using gateway::KeyRecord;

struct PlaceOptions {
  bool json = false;
  store::StateOptions state = store::state_options_from_environment();
  void fields(auto&& field) {
    field("json", json, "For a script: all that is known, as JSON.");
    state.fields(field);
  }
};

struct CreateOptions {
  std::string name, user, team, tenant, expires, metadata;
  std::vector<std::string> role, model, network, tag;
  int max_output_tokens = 0, min_priority = 0;
  PlaceOptions place;
  void fields(auto&& field) {
    field("name", name, "What people call it.");
    field("user", user, "Whose it is.");
    field("team", team, "Whose team's it is.");
    field("tenant", tenant, "Whose cached prompts and budgets it shares; left out: its own alone.");
    field("role", role, "admin, operator, auditor, developer or app; may be given many times. Left out: developer.");
    field("model", model,
          "A model that it may use, * for any text (gpt-*); may be given many times. Left out: every model.");
    field("network", network,
          "From where it may be used: 10.0.0.0/8, 2001:db8::/32; may be given many times. Left out: anywhere.");
    field("tag", tag, "NAME=VALUE, for rules and for who pays; may be given many times.");
    field("expires", expires, "When it ends: after 30d or 12h, or on a day (UTC) such as 2027-01-31. Left out: never.");
    field("max_output_tokens", max_output_tokens, "Most tokens of one answer; 0: no cap.");
    field("min_priority", min_priority,
          "How urgent its requests may be: the lowest `priority` that counts, such as -1. 0: no more than usual.");
    field("metadata", metadata, "A JSON object that is kept with it.");
    place.fields(field);
  }
};

struct RotateOptions {
  std::string overlap = "24h";
  PlaceOptions place;
  void fields(auto&& field) {
    field("overlap", overlap, "How long the old key is valid beside the new one: 30d, 12h; 0: not at all.");
    place.fields(field);
  }
};

void print_line(std::string_view name, const std::string& value) {
  if (!value.empty()) fmt::print("  {:<14}{}\n", name, value);
}

void print_record(const KeyRecord& key) {
  const Palette colour = palette(stdout);
  fmt::print("{}{}{}  {}\n", colour.bold, key.id, colour.plain, state_of(key));
  print_line("name", key.name);
  print_line("begins with", key.prefix);
  print_line("user", key.user);
  print_line("team", key.team);
  print_line("tenant", key.tenant);
  print_line("roles", fmt::format("{}", fmt::join(names(key.roles), ", ")));
  print_line("models", key.models.empty() ? "every" : fmt::format("{}", fmt::join(key.models, ", ")));
  print_line("networks", key.networks.empty() ? "any" : fmt::format("{}", fmt::join(key.networks, ", ")));
  for (const auto& [name, value] : key.tags) print_line("tag", name + "=" + value);
  if (key.output_cap > 0) print_line("output", fmt::format("at most {} tokens", key.output_cap));
  if (key.min_priority < 0) print_line("urgent", fmt::format("down to priority {}", key.min_priority));
  if (key.metadata != "{}") print_line("metadata", key.metadata);
  print_line("created", utc(key.created_at));
  print_line("expires", key.expires_at == 0 ? "never" : utc(key.expires_at));
  if (key.previous_hash) print_line("the old one", "is valid until " + utc(key.previous_until));
}

void print_shown(const gateway::ShownKey& shown, bool json) {
  if (json) {
    Json out = json_of(shown.record);
    out["key"] = shown.text;
    fmt::print("{}\n", dump_json(out));
    return;
  }
  const Palette colour = palette(stdout);
  print_record(shown.record);
  fmt::print("\n{}{}{}\n\nThis is the only time that it is shown: keep it now. Only a hash of it is stored.\n",
             colour.green, shown.text, colour.plain);
}

Result<KeyRecord> wishes(const CreateOptions& options) {
  KeyRecord out{.name = options.name, .user = options.user, .team = options.team, .tenant = options.tenant};
  if (!options.role.empty()) {
    const auto roles = gateway::parse_roles(options.role);
    if (!roles) return Error{Code::invalid, "--role: " + roles.error().message};
    out.roles = *roles;
  }
  out.models = options.model;
  out.networks = options.network;
  for (const std::string& tag : options.tag) {
    const auto equals = tag.find('=');
    if (equals == std::string::npos || equals == 0)
      return Error{Code::invalid, fmt::format("--tag: '{}' is not NAME=VALUE", tag)};
    out.tags.emplace_back(tag.substr(0, equals), tag.substr(equals + 1));
  }
  if (!options.metadata.empty()) out.metadata = options.metadata;
  out.output_cap = options.max_output_tokens;
  out.min_priority = options.min_priority;
  out.expires_at = TRY(parse_expiry(options.expires, "--expires"));
  return out;
}

Status create(const CreateOptions& options) {
  const KeyRecord wished = TRY(wishes(options));
  const auto keys = TRY(open_keys(options.place.state));
  const auto shown = TRY(keys.store->create(wished));
  tell_locally(*keys.database, {.kind = "key.created",
                                .subject = shown.record.id,
                                .message = fmt::format("the key '{}' was made", shown.record.name)});
  print_shown(shown, options.place.json);
  return {};
}

Status list_keys(const PlaceOptions& options) {
  const auto keys = TRY(open_keys(options.state));
  const auto all = TRY(keys.store->list());
  if (options.json) {
    Json out = Json::array();
    for (const KeyRecord& key : all) out.push_back(json_of(key));
    fmt::print("{}\n", dump_json(out));
    return {};
  }
  if (all.empty()) {
    fmt::print("There is no key in {}. To make one: ashlar key create --name laptop\n", keys.database->name());
    return {};
  }
  Table table({"ID", "BEGINS WITH", "STATE", "NAME", "TENANT", "TEAM", "ROLES", "EXPIRES"});
  for (const KeyRecord& key : all)
    table.add({key.id, key.prefix, std::string(state_of(key)), key.name, key.tenant, key.team,
               fmt::format("{}", fmt::join(names(key.roles), ",")),
               key.expires_at == 0 ? "never" : utc(key.expires_at).substr(0, 10)});
  table.print();
  return {};
}

Status show_key(const std::string& which, const PlaceOptions& options) {
  const auto keys = TRY(open_keys(options.state));
  const KeyRecord record = TRY(keys.store->find(which));
  if (options.json)
    fmt::print("{}\n", dump_json(json_of(record)));
  else
    print_record(record);
  return {};
}

Status rotate(const std::string& which, const RotateOptions& options) {
  const auto overlap = TRY(parse_span(options.overlap, "--overlap"));
  const auto keys = TRY(open_keys(options.place.state));
  const auto shown = TRY(keys.store->rotate(which, overlap));
  tell_locally(*keys.database, {.kind = "key.rotated",
                                .subject = shown.record.id,
                                .message = fmt::format("the key '{}' got a new secret", shown.record.name)});
  print_shown(shown, options.place.json);
  return {};
}

// What `change` does to each, all of which must be there first.
Status for_each(const std::vector<std::string>& which, const PlaceOptions& options, std::string_view done,
                const std::function<Status(gateway::KeyStore&, const std::string&)>& change) {
  const auto keys = TRY(open_keys(options.state));
  std::vector<KeyRecord> found;
  for (const std::string& each : which) found.push_back(TRY(keys.store->find(each)));
  Json out = Json::array();
  for (const KeyRecord& record : found) {
    TRY(change(*keys.store, record.id));
    tell_locally(*keys.database, {.kind = fmt::format("key.{}", done),
                                  .subject = record.id,
                                  .message = fmt::format("the key '{}' was {}", record.name, done)});
    if (options.json)
      out.push_back({{"id", record.id}, {"result", done}});
    else
      fmt::print("{} {}\n", done, record.id);
  }
  if (options.json) fmt::print("{}\n", dump_json(out));
  return {};
}

constexpr const char* kWhich = "Its id, the beginning that is shown, its name, or the whole key.";

int run_create(const Words& words) {
  CreateOptions options;
  return run_line(
      {.name = "key create",
       .summary = "Make an API key. It is shown once.",
       .examples = "Examples:\n  ashlar key create --name laptop\n"
                   "  ashlar key create --name search --tenant acme --role app --model 'qwen*' --expires 90d\n"
                   "  ashlar key create --name ci --network 10.0.0.0/8 --max-output-tokens 2000 --json\n"
                   "  ashlar key create --name pager --role app --min-priority -1",
       .options = list_options(options)},
      words, [&] { return create(options); });
}

int run_list(const Words& words) {
  PlaceOptions options;
  return run_line({.name = "key list", .summary = "The API keys, oldest first.", .options = list_options(options)},
                  words, [&] { return list_keys(options); });
}

int run_show(const Words& words) {
  PlaceOptions options;
  std::string which;
  return run_line({.name = "key show",
                   .summary = "All that is known of an API key.",
                   .positionals = {{.name = "KEY", .help = kWhich, .value = &which, .required = true}},
                   .options = list_options(options)},
                  words, [&] { return show_key(which, options); });
}

int run_rotate(const Words& words) {
  RotateOptions options;
  std::string which;
  return run_line(
      {.name = "key rotate",
       .summary = "A new secret for an API key; the old one is valid for a while longer.",
       .examples = "Examples:\n  ashlar key rotate laptop\n  ashlar key rotate key_3vT1QpX9aBcD --overlap 7d",
       .positionals = {{.name = "KEY", .help = kWhich, .value = &which, .required = true}},
       .options = list_options(options)},
      words, [&] { return rotate(which, options); });
}

int run_change(const Words& words, const char* name, const char* summary, std::string_view done_word,
               const std::function<Status(gateway::KeyStore&, const std::string&)>& change) {
  PlaceOptions options;
  std::vector<std::string> which;
  return run_line({.name = name,
                   .summary = summary,
                   .positionals = {{.name = "KEY", .help = kWhich, .rest = &which, .required = true}},
                   .options = list_options(options)},
                  words, [&] { return for_each(which, options, done_word, change); });
}

}  // namespace

int key(const Words& words) {
  const std::vector<Subcommand> all = {
      {"create", "[--name NAME] [--expires 30d] ...", "make one; it is shown once", run_create},
      {"list", "[--json]", "all of them", run_list},
      {"show", "KEY", "all that is known of one", run_show},
      {"rotate", "KEY [--overlap 24h]", "a new secret, the old one valid a while longer", run_rotate},
      {"block", "KEY...", "refuse it until further notice",
       [](const Words& rest) {
         return run_change(rest, "key block", "Refuse API keys until they are unblocked.", "blocked",
                           [](gateway::KeyStore& keys, const std::string& id) { return keys.set_blocked(id, true); });
       }},
      {"unblock", "KEY...", "take it again",
       [](const Words& rest) {
         return run_change(rest, "key unblock", "Take blocked API keys again.", "unblocked",
                           [](gateway::KeyStore& keys, const std::string& id) { return keys.set_blocked(id, false); });
       }},
      {"delete", "KEY...", "for good", [](const Words& rest) {
         return run_change(rest, "key delete", "Delete API keys for good.", "deleted",
                           [](gateway::KeyStore& keys, const std::string& id) { return keys.remove(id); });
       }}};
  return dispatch_subcommand(
      "key",
      "API keys: who may ask, which models, from where. They are kept as hashes in the state's "
      "database; a server that\nruns notices every change within a second.\n\nKEY is its id, the "
      "beginning that is shown, its name, or the whole key.",
      all, words);
}

}  // namespace ashlar::cli
