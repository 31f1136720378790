// The model that the program carries.
#pragma once

#include <string>

#include "base/result.h"

namespace ashlar::cli {

// A path under which the embedded GGUF file can be opened as long as the process
// lives (an anonymous file in memory). io: the system has none to give.
Result<std::string> default_model_path();

}  // namespace ashlar::cli
