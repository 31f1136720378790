// What a template can name besides its own variables.
#pragma once

#include "base/json.h"
#include "text/jinja/runtime.h"

namespace ashlar::text::jinja {

// The caller's JSON as values. too_large: nested too deep, or too much.
Result<Value> from_json(Runtime& runtime, const Json& json);

// range, dict, namespace, raise_exception, strftime_now ...; missing: no such name.
Value global(std::string_view name);

}  // namespace ashlar::text::jinja
