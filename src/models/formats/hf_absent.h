// What a folder holds instead of what is looked for, for whoever must act on it.
#pragma once

#include <string>

#include "base/result.h"

namespace ashlar::models {

// There is no config.json. not_found, or unsupported where the folder's files show another format.
Error no_config(const std::string& folder);

}  // namespace ashlar::models
