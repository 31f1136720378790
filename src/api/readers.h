// What /v1/embeddings and /v1/rerank have in common.
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "api/errors.h"
#include "api/fields.h"
#include "api/generation.h"
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
  request.sender = sender_of(call, &model);
  request.notes = std::make_shared<engine::Notes>();
  request.delivery = std::make_shared<engine::Delivery>();
  return request;
}

// Answers with what those on the way had to say.
class ReadingReply {
 public:
  template <class Request>
  ReadingReply(const Call& call, const Request& request, engine::Clock::time_point arrived)
      : exchange_(call.exchange), notes_(request.notes), delivery_(request.delivery), arrived_(arrived) {}
  // `asked`: as the answer has it, which came at `told`.
  void respond(std::string json, std::optional<engine::Clock::time_point> asked, engine::Clock::time_point told) const;
  // `texts` names the member whose texts were too long.
  void refuse(engine::Generator::Refusal refusal, std::string texts) const;

 private:
  std::shared_ptr<net::Exchange> exchange_;
  std::shared_ptr<const engine::Notes> notes_;
  std::shared_ptr<const engine::Delivery> delivery_;
  engine::Clock::time_point arrived_;
};

}  // namespace ashlar::api
