// What every answer has in common: the request's id, a few headers, and a place
// in the metrics.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "engine/generator.h"
#include "net/http.h"

namespace ashlar::api {

// An Exchange that adds `common` headers to the answer of the one it wraps, and
// counts it under `route` when it ends: a client that left counts as 499.
class Door : public net::Exchange {
 public:
  // Where whoever asks stands, for an answer that does not say it already (x-ratelimit-...). Before the answer; called
  // as it goes out, on its thread.
  virtual void set_rates(std::function<net::Headers()> rates) = 0;
  virtual engine::Clock::time_point arrived() const = 0;
};
std::shared_ptr<Door> with_door(std::shared_ptr<net::Exchange> inner, net::Headers common, std::string_view route);

// The client's X-Request-Id, if it is short and plain; "": it gave none.
std::string given_request_id(const net::Headers& headers);

// The header that says how much of the time since a request arrived was spent here: until it was handed at `asked` to
// who computes it, if anybody does, and since that one told at `told` what the answer goes out with.
std::pair<std::string, std::string> overhead_header(engine::Clock::time_point arrived,
                                                    std::optional<engine::Clock::time_point> asked = {},
                                                    engine::Clock::time_point told = {});

}  // namespace ashlar::api
