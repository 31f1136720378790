// What a request's sender says of its way, for RouterOptions::hints.
#pragma once

#include "engine/generator.h"
#include "gateway/routing/deployment.h"

namespace ashlar::gateway {

// Of Cache-Control also `ashlar-cache`: keep this though it is drawn at random.
RouteHints hints_of(const engine::Request& request);

}  // namespace ashlar::gateway
