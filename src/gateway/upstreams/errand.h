// One request for vectors on its way to an upstream.
#pragma once

#include <string>

#include "engine/embedder.h"
#include "gateway/upstreams/state.h"

namespace ashlar::gateway {

// Tried again as generations are. `done` is called once, on the client's thread or at once; `upstream` outlives that.
void run_errand(UpstreamState& upstream, engine::EmbedRequest request, const std::string& model,
                engine::Embedder::Done done);

}  // namespace ashlar::gateway
