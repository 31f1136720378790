// The section `routes` of the configuration file:
//
//   routes:
//     - name: chat                        # what clients ask for
//       aliases: [gpt-4o-mini]
//       strategy: prefix-ring             # weighted, least-outstanding, latency, prefix-index, cheapest
//       sticky: true
//       deployments:
//         - fast/qwen2.5-7b               # a model that is served: here, or by an upstream
//         - {model: local-7b, weight: 2, data_classes: [sensitive], label: canary}
//       fallbacks: {error: [small], context: long}
//       rollout:                          # of a version on trial, rollout/plan.h
//         to: fast/qwen3-8b
//         steps: [1%, 5%, 25%, 50%, 100%]
//         hold: 5m
//         minimum_requests: 50
//         gates: {error_rate: +1%, ttft_p95: 1.5x, itl_p95: 1.5x}
//       shadow: {to: fast/qwen3-14b, share: 10%}
//     - name: auto
//       tiers: {low: small, middle: chat, high: large}
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "engine/generator.h"
#include "gateway/routing/router.h"

namespace ashlar::gateway {

// False only where it is certain that nobody will serve a model of this name. None: nobody knows.
using ServedModels = std::function<bool(const std::string&)>;

// The deployments have no generator yet. invalid: every fault of the section, a line each, also a fallback or a tier
// that leads to no route, or a model that nobody serves. not_found: no such file.
Result<RouteTable> read_routes(const std::string& path, const ServedModels& served = {});
// The same of a text, which errors call `path`.
Result<RouteTable> parse_routes(const std::string& text, const std::string& path, const ServedModels& served = {});

}  // namespace ashlar::gateway
