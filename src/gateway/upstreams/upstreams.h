// The upstreams of a configuration, as the one after it finds them.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "gateway/upstreams/upstream.h"

namespace ashlar::gateway {

// An upstream with what it was made of, so that one of which nothing has changed goes on as it is.
struct KeptUpstream {
  UpstreamOptions options;
  std::string secrets;  // a fingerprint: what the references lead to
  std::shared_ptr<Upstream> upstream;
};

// Those of `before` whose options and secrets are the same, and the others made anew. Waits until every first probe of
// these has been answered or has failed, so that what they serve is known; but no longer than `patience`. One that is
// down joins when it comes back. Errors as Upstream::create; then nothing has changed.
Result<std::vector<KeptUpstream>> open_upstreams(std::vector<UpstreamOptions> options,
                                                 const std::vector<KeptUpstream>& before = {},
                                                 std::chrono::milliseconds patience = std::chrono::milliseconds(5'000));

}  // namespace ashlar::gateway
