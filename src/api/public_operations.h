// What the OpenAPI document says of the routes that are not the admin API's.
#pragma once

#include <string_view>

#include "base/json.h"

namespace ashlar::api {

// {"post": {"operationId", ...}} of a path of routes.cc, "*" written as a parameter. Null: there is nothing to say of
// it.
Json public_operation(std::string_view method, std::string_view path);

}  // namespace ashlar::api
