// Commands of two words: `ashlar team create`, `ashlar event list`.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/commands.h"
#include "cli/flags.h"

namespace ashlar::cli {

struct Subcommand {
  std::string name;     // "create"
  std::string usage;    // "NAME [--tenant T]", for the help
  std::string summary;  // a line of it
  std::function<int(const Words&)> run;
};

// Runs the one that the first word names. `about` is said above the help.
int dispatch_subcommand(std::string_view command, std::string_view about, const std::vector<Subcommand>& all,
                        const Words& words);

// Reads the words and does it: the exit status.
int run_line(CommandLine line, const Words& words, const std::function<Status()>& action);

}  // namespace ashlar::cli
