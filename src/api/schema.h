// Whether a JSON value is what a JSON Schema wants, for the part of it that the admin API says its bodies with: type
// (one or several), properties, required, additionalProperties, items, enum, minimum, maximum, minLength, maxLength,
// maxItems.
#pragma once

#include <string>
#include <string_view>

#include "api/errors.h"
#include "base/json.h"

namespace ashlar::api {

// The first fault, which names the member ("models[2]", "limits.rpm"); `name` is what the value itself is called, ""
// for a body. Lengths are of characters.
Outcome<void> check_schema(const Json& value, const Json& schema, const std::string& name = {});

// A parameter of a query, by the schema of what it stands for: "5" fits {"type": "integer"}.
Outcome<void> check_text(std::string_view text, const Json& schema, const std::string& name);

}  // namespace ashlar::api
