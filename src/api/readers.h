// What /v1/embeddings and /v1/rerank have in common.
#pragma once

#include <stop_token>
#include <string>

#include "api/errors.h"
#include "api/fields.h"
#include "api/routes.h"
#include "engine/generator.h"
#include "net/http.h"

namespace ashlar::api {

// vLLM's truncate_prompt_tokens: what is longer is cut to so many tokens; -1 there, 0 here: to what the model reads.
// Else "truncate", as other servers have it: true or "END", that too; false or "NONE", -1: nothing is cut. Absent: -1.
Outcome<int> read_truncation(Fields& fields);

// Is told to stop when the client leaves.
std::stop_token stop_when_gone(net::Exchange& exchange);

// An EmbedRequest or a RerankRequest, with what both have.
template <class Request>
Outcome<Request> begin_reading(const Call& call, const engine::ModelCard& model, Fields& fields) {
  Request request{.model = model.id, .tenant = call.tenant};
  fields.read("keep_alive", request.keep_alive);
  request.truncate = TRY(read_truncation(fields));
  request.stop = stop_when_gone(*call.exchange);
  return request;
}

// `texts` names the member whose texts were too long.
void respond_refusal(net::Exchange& exchange, engine::Generator::Refusal refusal, std::string texts);

}  // namespace ashlar::api
