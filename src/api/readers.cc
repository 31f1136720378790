#include "api/readers.h"

#include <memory>
#include <utility>

#include "api/door.h"
#include "base/json_full.h"

namespace ashlar::api {

Outcome<int> read_truncation(Fields& fields) {
  const Json* truncate = fields.find("truncate");
  const bool cut = truncate != nullptr && (*truncate == true || *truncate == "END");
  if (truncate != nullptr && !cut && *truncate != false && *truncate != "NONE")
    return bad("truncate", R"('truncate' should be true, false, "END" or "NONE")");
  if (!fields.has("truncate_prompt_tokens")) return cut ? 0 : -1;
  int most = 0;
  fields.read("truncate_prompt_tokens", most, {-1});
  TRY(fields.done());
  if (most == 0) return bad("truncate_prompt_tokens", "'truncate_prompt_tokens' should be -1, or at least 1");
  return most == -1 ? 0 : most;
}

std::stop_token stop_when_gone(net::Exchange& exchange) {
  auto source = std::make_shared<std::stop_source>();
  exchange.on_gone([source] { source->request_stop(); });
  return source->get_token();
}

void ReadingReply::respond(std::string json, std::optional<engine::Clock::time_point> asked,
                           engine::Clock::time_point told) const {
  net::Headers headers{{"content-type", "application/json"}, overhead_header(arrived_, asked, told)};
  headers.insert(headers.end(), notes_->begin(), notes_->end());
  net::Marks marks;
  if (delivery_->count != nullptr) marks.push_back({.count = delivery_->count, .value = delivery_->value});
  exchange_->respond_marked(200, std::move(headers), std::move(json), std::move(marks));
}

void ReadingReply::refuse(engine::Generator::Refusal refusal, std::string texts) const {
  net::Headers headers = *notes_;
  headers.push_back(overhead_header(arrived_));
  respond_fault(*exchange_, fault_of(std::move(refusal), texts), std::move(headers));
}

}  // namespace ashlar::api
