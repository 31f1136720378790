// ashlar backup, restore: the state, copied and put back.
#include <fmt/format.h>

#include "base/bytes.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/terminal.h"
#include "store/backup.h"

namespace ashlar::cli {
namespace {

std::string versions_text(const std::vector<store::SchemaVersion>& versions) {
  if (versions.empty()) return "nothing in it yet";
  std::string text = "versions of its tables: ";
  for (const auto& each : versions) text += fmt::format("{}{} {}", &each == &versions.front() ? "" : ", ", each.room, each.version);
  return text;
}

struct BackupCommand {
  std::string file;
  store::StateOptions state = store::state_options_from_environment();
};

}  // namespace

int backup(const Words& words) {
  BackupCommand options;
  CommandLine line{
      .name = "backup",
      .summary = "Copy keys, budgets and usage, as they are now, into one file; a server may run meanwhile.",
      .examples =
          "Example:\n  ashlar backup /backups/ashlar-$(date +%F).db\n\n"
          "The copy is checked before it gets its name, and holds secrets: keep it as safe as the database. Of "
          "PostgreSQL: pg_dump --format=custom --file=FILE DATABASE.",
      .positionals = {{.name = "FILE", .help = "It must not exist.", .value = &options.file, .required = true}},
      .options = list_options(options.state)};
  if (const auto status = parse(line, words)) return *status;
  const auto where = store::state_location(options.state);
  if (!where) return fail("backup", where.error());
  const auto done = store::backup_state(*where, options.file);
  if (!done) return fail("backup", done.error());
  fmt::print("{}: {}, checked ({})\n", done->file, to_string(Bytes{static_cast<std::uint64_t>(done->bytes)}),
             versions_text(done->versions));
  return 0;
}

int restore(const Words& words) {
  BackupCommand options;
  CommandLine line{
      .name = "restore",
      .summary = "Put a copy made by `ashlar backup` in the place of the state.",
      .examples =
          "Example:\n  ashlar restore /backups/ashlar-2026-11-21.db\n\n"
          "Stop the server first. The copy is checked before anything is touched, and what was there is kept "
          "beside it. Of PostgreSQL: pg_restore --clean --if-exists --dbname=DATABASE FILE.",
      .positionals = {{.name = "FILE", .help = "The copy.", .value = &options.file, .required = true}},
      .options = list_options(options.state)};
  if (const auto status = parse(line, words)) return *status;
  const auto where = store::state_location(options.state);
  if (!where) return fail("restore", where.error());
  const auto done = store::restore_state(*where, options.file);
  if (!done) return fail("restore", done.error());
  fmt::print("{} is {} now ({}){}\n", *where, options.file, versions_text(done->versions),
             done->kept.empty() ? "" : fmt::format("; what was there is kept as {}", done->kept));
  return 0;
}

}  // namespace ashlar::cli
