// All that `ashlar serve` is told, read and checked as a whole: its flags, the environment, the file of --config and
// the files that these name.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/flags.h"
#include "cli/serve_options.h"
#include "gateway/identity/identity.h"
#include "gateway/limits/rules.h"

namespace ashlar::cli {

struct ServePlan {
  ServeOptions options;
  std::vector<std::string> models;  // of the flags and the file; the embedded one where nothing else is served
  GatewayPlan gateway;
  gateway::LimitsConfig limits;
  gateway::IdentityConfig identity;
  std::string limits_stamp, identity_stamp, keys_stamp;  // another where what was read is another
  std::string stamp;                                     // of all of it
  std::string config;                                    // the file of --config, or ""
};

// With the files that were read, or should have been.
struct ReadServePlan {
  std::vector<std::string> files;
  Result<ServePlan> plan;  // errors: every fault of every file, a line each
};

// The words that `ashlar serve` takes; `options` and `model` outlive it.
CommandLine serve_line(ServeOptions& options, std::string& model);

// Whether the words are all that there will be, or a file is judged alone: then others may name models.
enum class Known { all, some };

// What these words of `ashlar serve`, once understood, ask for by the files as they are now. `config`: the file that
// they name, or ""; `text`, if not null, stands in the place of its own.
ReadServePlan read_serve_plan(const std::vector<std::string>& words, const std::string& config,
                              const std::string* text = nullptr, Known are = Known::all);

// What of `now` is not as it was `at_start` and can only be so after a restart: names of options.
std::vector<std::string> waits_for_restart(ServeOptions at_start, ServeOptions now);

// "warn" as the log has it. invalid.
Status configure_log(const ServeOptions& options);

}  // namespace ashlar::cli
