#include "cli/subcommands.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/terminal.h"

namespace ashlar::cli {
namespace {

void print_help(std::FILE* out, std::string_view command, std::string_view about, const std::vector<Subcommand>& all) {
  std::size_t width = 0;
  for (const Subcommand& each : all) width = std::max(width, each.name.size() + each.usage.size() + 1);
  fmt::print(out, "{}\n\n", about);
  for (const Subcommand& each : all)
    fmt::print(out, "  ashlar {} {:<{}}  {}\n", command, each.name + " " + each.usage, width, each.summary);
  fmt::print(out, "\n`ashlar {} COMMAND --help` explains each.\n", command);
}

}  // namespace

int dispatch_subcommand(std::string_view command, std::string_view about, const std::vector<Subcommand>& all,
                        const Words& words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    print_help(words.empty() ? stderr : stdout, command, about, all);
    return words.empty() ? 2 : 0;
  }
  for (const Subcommand& each : all)
    if (each.name == words[0]) return each.run(Words(words.begin() + 1, words.end()));
  std::string names;
  for (const Subcommand& each : all) names += (names.empty() ? "" : ", ") + each.name;
  fmt::print(stderr, "ashlar {}: there is no '{}'; there are {}\n", command, words[0], names);
  return 2;
}

int run_line(CommandLine line, const Words& words, const std::function<Status()>& action) {
  if (const auto status = parse(line, words)) return *status;
  if (const auto done = action(); !done) return fail(line.name, done.error());
  return 0;
}

}  // namespace ashlar::cli
