// GET /metrics
#include "base/metrics.h"

#include "api/routes.h"

namespace ashlar::api {

Outcome<void> show_metrics(Call& call) {
  call.exchange->respond(200, {{"content-type", "text/plain; version=0.0.4; charset=utf-8"}}, metrics::render());
  return {};
}

}  // namespace ashlar::api
