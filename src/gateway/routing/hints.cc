#include "gateway/routing/hints.h"

#include "gateway/routing/response_cache.h"
#include "net/http_text.h"

namespace ashlar::gateway {

RouteHints hints_of(const engine::Request& request) {
  const engine::Sender& sender = request.sender;
  RouteHints hints{.session = sender.session,
                   .data_classes = sender.data_classes,
                   .cache = read_cache_control(sender.cache_control)};
  hints.cache.wanted = net::has_word(sender.cache_control, "ashlar-cache");
  return hints;
}

void explain(const engine::Request& request, const RouteTrace& trace) {
  if (request.sender.explain && request.notes) note(*request.notes, trace);
}

void note(engine::Notes& notes, const RouteTrace& trace) { notes.emplace_back("x-ashlar-route", trace.header()); }

}  // namespace ashlar::gateway
