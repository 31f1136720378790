// Flags of one command: the options that structs list (base/options.h), bound
// to the command line, the environment and a configuration file.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/options.h"

namespace ashlar::cli {

struct Positional {
  std::string name;  // MODEL
  std::string help;
  std::string* value = nullptr;              // one word, or
  std::vector<std::string>* rest = nullptr;  // all that remain
  bool required = false;
};

struct CommandLine {
  std::string name;     // "serve"
  std::string summary;  // one line
  std::string examples; // shown below the options
  std::vector<Positional> positionals;
  std::vector<Option> options;
  bool reads_environment = false;  // ASHLAR_<NAME>, and --config FILE
  std::vector<std::string> sections{};  // of that file, which are not options: the command reads them itself
  std::string config{};                 // set by parse(): the file, or ""
};

// Flags win over the environment, which wins over --config, which wins over the
// defaults. nullopt: go on; else the program's exit status, help or the error
// having been printed.
std::optional<int> parse(CommandLine& line, const std::vector<std::string>& arguments);

// The same once more into other options, after parse() understood these words: with `text` in the place of the file's,
// if it is not null. Prints nothing. Errors: the file's and the environment's faults.
Status parse_again(CommandLine& line, const std::vector<std::string>& arguments, const std::string* text);

}  // namespace ashlar::cli
