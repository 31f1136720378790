#include "cli/flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

namespace ashlar::cli {
namespace {

std::string flag_name(const Option& option) {
  std::string name = "--" + option.name;
  std::ranges::replace(name, '_', '-');
  return name;
}

struct Given {
  Option* option;
  std::string text;
};

// What CLI11 shall understand: every option collects its words into `given`,
// applied later so that flags come last.
void declare(CLI::App& app, CommandLine& line, std::vector<Given>& given, std::string& config) {
  for (Positional& positional : line.positionals) {
    CLI::Option* declared = positional.rest != nullptr ? app.add_option(positional.name, *positional.rest, positional.help)
                                                       : app.add_option(positional.name, *positional.value, positional.help);
    declared->required(positional.required)->type_name("");
  }
  for (Option& option : line.options) {
    const std::string name = flag_name(option);
    const auto take = [&given, &option](const std::string& text) { given.push_back({&option, text}); };
    if (option.is_flag) {
      app.add_flag_function(name + ",!--no-" + name.substr(2),
                            [take](std::int64_t count) { take(count > 0 ? "true" : "false"); }, option.help);
    } else {
      CLI::Option* declared = app.add_option_function<std::vector<std::string>>(
          option.name == "output" ? "-o," + name : name, [take](const std::vector<std::string>& words) { std::ranges::for_each(words, take); }, option.help);
      declared->type_name("")->expected(1)->allow_extra_args(false);
      if (option.is_list) declared->expected(1, 1 << 20)->take_all();
      else declared->take_last();
      if (!option.default_value.empty()) declared->default_str(option.default_value);
      if (option.is_list) declared->allow_extra_args(false);
    }
  }
  if (line.reads_environment) app.add_option("--config", config, "Read options from this YAML file.")->type_name("FILE");
}

int fail(const std::string& command, const std::string& message) {
  fmt::print(stderr, "ashlar {}: {}\nTry `ashlar {} --help`.\n", command, message, command);
  return 2;
}

// The file, the environment, then the flags.
Status apply(CommandLine& line, const std::vector<Given>& given, const std::string* text) {
  if (line.reads_environment) {
    if (!line.config.empty() && text != nullptr)
      TRY(read_options_text(*text, line.config, line.options, line.sections));
    else if (!line.config.empty())
      TRY(read_options_file(line.config, line.options, line.sections));
    TRY(read_options_environment(line.options));
  }
  for (const Given& each : given)
    if (const Status set = each.option->set(each.text); !set)
      return Error{set.error().code, fmt::format("{}: {}", flag_name(*each.option), set.error().message)};
  return {};
}

// Words into `given`, and the file's name.
void understand(CLI::App& app, CommandLine& line, const std::vector<std::string>& arguments, std::vector<Given>& given) {
  declare(app, line, given, line.config);
  app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
}

}  // namespace

std::optional<int> parse(CommandLine& line, const std::vector<std::string>& arguments) {
  CLI::App app(line.summary, "ashlar " + line.name);
  app.footer(line.examples + (line.reads_environment
                                  ? "\nEvery option may also stand in the file of --config as `name: value`, or in the environment as ASHLAR_NAME."
                                  : ""));
  app.get_formatter()->column_width(34);
  std::vector<Given> given;
  try {
    understand(app, line, arguments, given);
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::ParseError& e) {
    return fail(line.name, e.what());
  }
  if (const Status done = apply(line, given, nullptr); !done) return fail(line.name, done.error().message);
  return std::nullopt;
}

Status parse_again(CommandLine& line, const std::vector<std::string>& arguments, const std::string* text) {
  CLI::App app;
  std::vector<Given> given;
  try {
    understand(app, line, arguments, given);
  } catch (const CLI::Error& e) {
    return Error{Code::invalid, e.what()};
  }
  return apply(line, given, text);
}

}  // namespace ashlar::cli
