// GET /health, /version, /api/status
#include <fmt/format.h>

#include <utility>
#include <vector>

#include "api/routes.h"
#include "base/json.h"

namespace ashlar::api {
namespace {

// llama.cpp's shape, which readiness probes written for it look into.
void respond_unavailable(const Call& call, std::string_view why) {
  call.exchange->respond(503, {{"content-type", "application/json"}, {"retry-after", "1"}},
                         fmt::format(R"({{"error":{{"code":503,"message":"{}","type":"unavailable_error"}}}})", why));
}

// What an operator should know, a sentence each.
std::vector<std::string> troubles_of(const Shared& shared) {
  std::vector<std::string> all;
  if (shared.identity != nullptr) all = shared.identity->troubles();
  if (shared.generator != nullptr && shared.troubles)
    for (std::string& trouble : shared.troubles()) all.push_back(std::move(trouble));
  return all;
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
  else if (const auto troubles = troubles_of(call.shared); !troubles.empty())
    // It serves. The sentences are for those who may read /api/status.
    call.respond_json(fmt::format(R"({{"status":"ok","troubles":{}}})", troubles.size()));
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
  for (const std::string& trouble : troubles_of(call.shared)) {
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
