// One request on its way to an upstream: its attempts, what they tell, and the sink that hears it.
#pragma once

#include <memory>

#include "engine/generator.h"
#include "gateway/upstreams/state.h"

namespace ashlar::gateway {

// Sends the request, whose model is called `model` there. What can be known at once to be wrong is the result.
std::expected<std::unique_ptr<engine::Ticket>, engine::Generator::Refusal> take_off(
    std::shared_ptr<UpstreamState> upstream, engine::Request&& request, std::string model, engine::Sink& sink);

}  // namespace ashlar::gateway
