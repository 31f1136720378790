#include "gateway/routing/demand.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace ashlar::gateway {
namespace {

constexpr int kMostDesired = 100'000;

}  // namespace

int Demand::look(const RouteUse& use, double capacity, TimePoint now) {
  const bool saturated = use.waiting > 0 || (use.places > 0 && use.running >= use.places);
  if (looked_)
    capacity_ *=
        std::exp2(-std::chrono::duration<double>(now - *looked_) / std::chrono::duration<double>(options_.half_life));
  looked_ = now;
  if (saturated && use.ready > 0) capacity_ = std::max(capacity_, use.tokens_per_second / use.ready);
  if (capacity > 0) capacity_ = capacity;

  if (use.running > 0 || use.waiting > 0 || use.tokens_per_second > 0) used_ = now;
  if (!used_ || now - *used_ >= options_.idle) return 0;
  double busy = std::max(use.memory, use.placed), queue = use.waiting > 0 ? 1 : 0;
  if (capacity_ > 0) {
    busy = std::max(busy, use.tokens_per_second / capacity_);
    queue = std::max(use.waiting_tokens / (capacity_ * std::chrono::duration<double>(options_.drain).count()),
                     use.waiting_tokens > 0 ? 0 : queue);
  }
  const double wanted = (busy + queue) / options_.target;
  return std::clamp(static_cast<int>(std::ceil(std::min<double>(wanted, kMostDesired) - 1e-9)), 1, kMostDesired);
}

RouteMetrics::RouteMetrics(const std::string& route)
    : outstanding("gateway_route_outstanding_tokens", "Tokens of the route's requests still to be computed.",
                  {{"route", route}}),
      waiting("gateway_route_queue", "The route's requests that wait, here or at their deployment.",
              {{"route", route}}),
      running("gateway_route_requests", "The route's requests at its deployments.", {{"route", route}}),
      memory("gateway_route_kv_used", "The mean share of its deployments' KV memory in use.", {{"route", route}}),
      rate("gateway_route_tokens_per_second",
           "Tokens of prompts and answers that ended in the last ten seconds, for each of them.", {{"route", route}}),
      capacity("gateway_route_capacity_tokens_per_second",
               "Most tokens in a second of one deployment; 0: not known yet.", {{"route", route}}),
      ready("gateway_route_ready_deployments", "Its deployments that are in service.", {{"route", route}}),
      desired("gateway_route_desired_replicas", "Deployments that it needs.", {{"route", route}}) {}

void RouteMetrics::set(const RouteUse& use, double its_capacity, int its_desired) {
  outstanding.set(use.outstanding_tokens);
  waiting.set(use.waiting);
  running.set(use.running);
  memory.set(use.ready > 0 ? use.memory / use.ready : 0);
  rate.set(use.tokens_per_second);
  capacity.set(its_capacity);
  ready.set(use.ready);
  desired.set(its_desired);
}

}  // namespace ashlar::gateway
