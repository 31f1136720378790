// Python's pprint.pformat().
#pragma once

#include <string>

#include "text/jinja/runtime.h"

namespace ashlar::text::jinja {

Result<std::string> pretty(Runtime& runtime, const Value& value);

}  // namespace ashlar::text::jinja
