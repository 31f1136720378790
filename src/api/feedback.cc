// POST /v1/feedback: how good somebody found an answer that he got.
#include <fmt/format.h>

#include <string>

#include "api/fields.h"
#include "api/generation.h"
#include "api/routes.h"
#include "base/json_full.h"

namespace ashlar::api {

Outcome<void> feedback(Call& call) {
  TRY(call.generator());
  const Json body = TRY(parse_body(call.request()));
  Fields fields(body);
  std::string id;
  float score = -1;
  fields.read("id", id, 256);
  fields.read("score", score, {.low = 0, .high = 1});
  TRY(fields.done());
  if (id.empty()) return std::unexpected(bad("id", "'id' is missing: that of the answer"));
  if (score < 0) return std::unexpected(bad("score", "'score' is missing: from 0 to 1"));
  bool counted = false;
  if (call.shared.feedback) {
    const auto done = call.shared.feedback(id, score, call.tenant, sender_of(call));
    if (!done) return std::unexpected(Fault(done.error()));
    counted = *done;
  }
  call.respond_json(fmt::format(R"({{"counted":{}}})", counted));
  return {};
}

}  // namespace ashlar::api
