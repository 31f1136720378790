// ashlar list, remove, gc: the models that were pulled.
#include <fmt/format.h>

#include <algorithm>

#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/interrupts.h"
#include "cli/pull_screen.h"
#include "cli/terminal.h"
#include "store/model_store.h"

namespace ashlar::cli {
namespace {

struct ListOptions {
  bool json = false;
  store::StoreOptions store = store::store_options_from_environment();
  void fields(auto&& field) {
    field("json", json, "For a script: an array, all that is known of each.");
    store.fields(field);
  }
};

struct GcOptions {
  bool partial = false;
  std::string keep;
  store::StoreOptions store = store::store_options_from_environment();
  void fields(auto&& field) {
    field("keep", keep,
          "Bytes, as 100GiB: move the models that were used longest ago to the object store, until the others take no "
          "more than this.");
    field("partial", partial, "Remove every unfinished download too, not only those older than two weeks.");
    store.fields(field);
  }
};

Status list_models(const ListOptions& options) {
  const auto store = TRY(store::ModelStore::open(options.store));
  const auto [models, damaged] = store->list();
  for (const Error& each : damaged) fmt::print(stderr, "warning: {}\n", each.message);
  if (options.json) {
    Json all = Json::array();
    for (const auto& model : models) {
      Json each = store::manifest_json(model);
      each["bytes"] = model.bytes();
      each["tier"] = store->is_here(model) ? "disk" : "object store";
      each["used_at"] = store::utc_text(store->used_at(model));
      all.push_back(std::move(each));
    }
    fmt::print("{}\n", dump_json(all));
    return {};
  }
  if (models.empty()) {
    fmt::print("No model has been pulled into {}. To fetch one: ashlar pull hf:Qwen/Qwen3-0.6B-GGUF:Q8_0\n",
               store->root());
    return {};
  }
  std::size_t width = 5;
  for (const auto& model : models) width = std::max(width, model.reference.size());
  const Palette colour = palette(stdout);
  fmt::print("{}{:<{}}  {:>10}  {:<16}  {:<10}  {}{}\n", colour.dim, "MODEL", width, "SIZE", "LICENCE", "PULLED",
             "NAME", colour.plain);
  for (const auto& model : models)
    fmt::print("{}{:<{}}{}  {:>10}  {:<16}  {:<10}  {}\n", colour.bold, model.reference, width, colour.plain,
               to_string(Bytes{model.bytes()}), model.licence.empty() ? "-" : model.licence.substr(0, 16),
               store::utc_text(model.pulled_at).substr(0, 10), model.alias);
  return {};
}

void print_reclaimed(const store::Reclaimed& reclaimed) {
  fmt::print("removed {} file{}, {}\n", reclaimed.files, reclaimed.files == 1 ? "" : "s", to_string(reclaimed.bytes));
}

Result<store::Reclaimed> reclaim(const GcOptions& options) {
  const auto store = TRY(store::ModelStore::open(options.store));
  store::Reclaimed all = TRY(store->gc(options.partial));
  if (options.keep.empty()) return all;
  const Bytes most = TRY(parse_bytes(options.keep));
  PullScreen screen("moving");
  const store::Reclaimed moved = TRY(store->cool(most, screen.watch()));
  return store::Reclaimed{.files = all.files + moved.files, .bytes = {all.bytes.count + moved.bytes.count}};
}

Status remove_models(const std::vector<std::string>& names, const store::StoreOptions& options) {
  const auto store = TRY(store::ModelStore::open(options));
  store::Reclaimed all;
  for (const std::string& name : names) {
    const store::Reclaimed one = TRY(store->remove(name));
    all.files += one.files;
    all.bytes.count += one.bytes.count;
  }
  print_reclaimed(all);
  return {};
}

}  // namespace

int list(const Words& words) {
  ListOptions options;
  CommandLine line{.name = "list",
                   .summary = "The models that were pulled: where from, how large, under which licence.",
                   .examples =
                       "Any of a model's names will do for serve, run, show and remove: all of it, the part after the "
                       "last '/', or its file's name.",
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = list_models(options); !done) return fail("list", done.error());
  return 0;
}

int remove(const Words& words) {
  std::vector<std::string> names;
  store::StoreOptions options = store::store_options_from_environment();
  CommandLine line{
      .name = "remove",
      .summary = "Forget pulled models, and remove the bytes that no other one needs.",
      .examples = "Example:\n  ashlar remove qwen3:0.6b",
      .positionals = {{.name = "NAME", .help = "As `ashlar list` shows it.", .rest = &names, .required = true}},
      .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = remove_models(names, options); !done) return fail("remove", done.error());
  return 0;
}

int gc(const Words& words) {
  GcOptions options;
  CommandLine line{.name = "gc",
                   .summary =
                       "Remove from the store what no model needs: bytes of models that are gone, what came damaged, "
                       "old unfinished downloads.",
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  catch_interrupts();
  const auto reclaimed = reclaim(options);
  if (!reclaimed) return fail("gc", reclaimed.error());
  print_reclaimed(*reclaimed);
  return 0;
}

}  // namespace ashlar::cli
