// What a request's sender says of its way, for RouterOptions::hints.
#pragma once

#include "engine/generator.h"
#include "gateway/routing/deployment.h"
#include "gateway/routing/trace.h"

namespace ashlar::gateway {

// Of Cache-Control also `ashlar-cache`: keep this though it is drawn at random.
RouteHints hints_of(const engine::Request& request);
// Notes the trace for the sender, if they asked for it.
void explain(const engine::Request& request, const RouteTrace& trace);
void note(engine::Notes& notes, const RouteTrace& trace);

}  // namespace ashlar::gateway
