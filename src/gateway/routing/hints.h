// What a request's sender says of its way, for RouterOptions::hints.
#pragma once

#include <string_view>

#include "engine/generator.h"
#include "gateway/routing/deployment.h"

namespace ashlar::gateway {

RouteHints hints_of(const engine::Request& request);

// RFC 9111's no-cache, no-store and max-age of a request; `ashlar-cache` asks to keep what is drawn at random too.
// What is not understood is passed over.
CacheControl parse_cache_control(std::string_view header);

}  // namespace ashlar::gateway
