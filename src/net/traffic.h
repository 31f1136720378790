// What the network room counts.
#pragma once

#include <string_view>

#include "base/metrics.h"

namespace ashlar::net {

struct Traffic {
  Gauge connections{"http_connections", "Client connections open."};
  Gauge streams{"http_streams", "Requests being answered."};
  Counter left{"http_clients_gone_total",
               "Requests whose client left, or stopped reading, before the end of the answer."};
  Counter broken{"http_connections_broken_total",
                 "Client connections dropped for want of memory, or another fault within."};
};
Traffic& traffic();

// One more answer, in http_requests_total{method,status}: the method's own name
// if it is a common one, and "2xx".
void count_request(std::string_view method, int status);

}  // namespace ashlar::net
