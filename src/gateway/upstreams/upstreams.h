// All upstreams of a server.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "gateway/upstreams/upstream.h"

namespace ashlar::gateway {

class Upstreams {
 public:
  // Makes each, and waits until every first probe has been answered or has failed, so that what they serve is known;
  // but no longer than `patience`. One that is down joins when it comes back. Errors as Upstream::create.
  static Result<std::unique_ptr<Upstreams>> open(std::vector<UpstreamOptions> options,
                                                 std::chrono::milliseconds patience = std::chrono::milliseconds(5'000));
  std::vector<Upstream*> upstreams() const;

 private:
  std::vector<std::unique_ptr<Upstream>> upstreams_;
};

}  // namespace ashlar::gateway
