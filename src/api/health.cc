// GET /health, /version, /api/status
#include <fmt/format.h>

#include "api/routes.h"
#include "base/json.h"

namespace ashlar::api {
namespace {

// llama.cpp's shape, which readiness probes written for it look into.
void respond_unavailable(const Call& call, std::string_view why) {
  call.exchange->respond(503, {{"content-type", "application/json"}, {"retry-after", "1"}},
                         fmt::format(R"({{"error":{{"code":503,"message":"{}","type":"unavailable_error"}}}})", why));
}

}  // namespace

Outcome<void> health(Call& call) {
  const engine::Generator* generator = call.shared.generator;
  if (call.shared.phase == Phase::draining)
    respond_unavailable(call, "Shutting down");
  else if (generator == nullptr)
    respond_unavailable(call, "Loading model");
  else if (!generator->load().healthy)
    respond_unavailable(call, "The engine stands still");
  else
    call.respond_json(R"({"status":"ok"})");
  return {};
}

Outcome<void> version(Call& call) {
  call.respond_json(R"({"version":")" ASHLAR_VERSION "\"}");
  return {};
}

// What the page shows beside an answer.
Outcome<void> status(Call& call) {
  const engine::Generator& generator = *TRY(call.generator());
  const auto load = generator.load();
  std::string troubles;
  if (call.shared.identity != nullptr)
    for (const std::string& trouble : call.shared.identity->troubles()) {
      troubles.append(troubles.empty() ? R"(,"troubles":[)" : ",");
      append_json_string(troubles, trouble);
    }
  if (!troubles.empty()) troubles.push_back(']');
  call.respond_json(fmt::format(
      R"({{"version":"{}","running":{},"waiting":{},"kv_used":{:.4f},"prefill_tokens_per_second":{:.1f},"decode_tokens_per_second":{:.1f},"healthy":{}{}}})",
      ASHLAR_VERSION, load.running, load.waiting, load.kv_used, load.prefill_tokens_per_second,
      load.decode_tokens_per_second, load.healthy, troubles));
  return {};
}

}  // namespace ashlar::api
