// ashlar config: what is wrong with a configuration file, before a server reads it; and another program's as ours.
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/json_full.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/serve_plan.h"
#include "cli/terminal.h"
#include "gateway/routing/router.h"
#include "gateway/litellm/import_litellm.h"
#include "gateway/section.h"

namespace ashlar::cli {
namespace {

Status check(const std::string& path) {
  const ServePlan plan = TRY(read_serve_plan({"--config", path}, path, nullptr, Known::some).plan);
  TRY(gateway::check_table(plan.gateway.routes));
  const auto count = [](std::size_t n, std::string_view what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); };
  fmt::print("{}: fine; {}, {}\n", path, count(plan.gateway.upstreams.size(), "upstream"),
             count(plan.gateway.routes.groups.size(), "route"));
  return {};
}

struct ImportOptions {
  std::string out;
  bool json = false, strict = false;
  void fields(auto&& field) {
    field("out", out, "import-litellm: write the configuration there, and its limits beside it; left out: to stdout.");
    field("json", json, "import-litellm: what was left out as JSON, to stdout where --out is given, else to stderr.");
    field("strict", strict, "import-litellm: fail where anything was left out or is not the same.");
  }
};

Status write_text(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) return Error{Code::io, fmt::format("{}: cannot be written", path)};
  return {};
}

void print_notes(const std::string& path, const gateway::LitellmImport& made, const ImportOptions& options) {
  Json all = Json::array();
  for (const gateway::LitellmImport::Note& note : made.notes) {
    if (options.json)
      all.push_back({{"line", note.line}, {"key", note.key}, {"why", note.why}});
    else if (note.line > 0)
      fmt::print(stderr, "{}:{}: {}: {}\n", path, note.line, note.key, note.why);
    else
      fmt::print(stderr, "{}: {}: {}\n", path, note.key, note.why);
  }
  if (options.json) fmt::print(options.out.empty() ? stderr : stdout, "{}\n", dump_json(all));
}

// 1: something was left out, and it should not have been.
Result<int> import(const std::string& path, const ImportOptions& options) {
  const std::string text = TRY(gateway::read_config_text(path));
  // Beside the configuration, under its name.
  std::filesystem::path limits = options.out;
  limits.replace_extension(".limits.yaml");
  std::error_code none;
  for (const std::filesystem::path& out : {std::filesystem::path(options.out), limits})
    if (!options.out.empty() && std::filesystem::equivalent(path, out, none))
      return Error{Code::invalid, fmt::format("--out: {} is what is read: write somewhere else", out.string())};
  auto made = gateway::import_litellm(text, options.out.empty() ? "" : limits.string());
  if (!made) return Error{made.error().code, fmt::format("{}: {}", path, made.error().message)};
  if (options.out.empty()) {
    fmt::print("{}", made->config);
  } else {
    if (!made->limits.empty()) TRY(write_text(limits.string(), made->limits));
    TRY(write_text(options.out, made->config));
  }
  print_notes(path, *made, options);
  return options.strict && !made->notes.empty() ? 1 : 0;
}

}  // namespace

int config(const Words& words) {
  std::string what, path;
  ImportOptions options;
  CommandLine line{.name = "config",
                   .summary = "Check a configuration file of `ashlar serve`, or make one of a LiteLLM proxy's; nothing is started.",
                   .examples = "Examples:\n  ashlar config check ashlar.yaml\n"
                               "  ashlar config import-litellm config.yaml --out ashlar.yaml",
                   .positionals = {{.name = "check|import-litellm", .help = "What to do.", .value = &what, .required = true},
                                   {.name = "FILE", .help = "The YAML file.", .value = &path, .required = true}},
                   .options = list_options(options)};
  if (const auto status = parse(line, words)) return *status;
  if (what == "import-litellm") {
    const auto done = import(path, options);
    return done ? *done : fail("config import-litellm", done.error());
  }
  if (what != "check") return fail("config", {Code::invalid, fmt::format("'{}' is neither `check` nor `import-litellm`", what)});
  if (const auto done = check(path); !done) return fail("config check", done.error());
  return 0;
}

}  // namespace ashlar::cli
