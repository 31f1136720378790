// What `ashlar upstream` has from the commands that ask a running server.
#pragma once

#include "cli/commands.h"

namespace ashlar::cli {

int list_upstreams(const Words& words);

}  // namespace ashlar::cli
