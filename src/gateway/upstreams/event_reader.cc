#include "gateway/upstreams/event_reader.h"

#include "base/json_full.h"
#include "gateway/upstreams/failure.h"

namespace ashlar::gateway {

void EventReader::read(std::string_view bytes) {
  if (framing_.whole(bytes)) return;
  if (auto done = sse_.read(bytes,
                            [this](const net::SseEvent& event) {
                              teller_.next();
                              take_event(event);
                            });
      !done)
    teller_.fail(nonsense(teller_.upstream(), "an event that is too long"));
}

void EventReader::end() {
  if (const auto body = framing_.body()) {
    const auto answer = parse_answer(*body);
    if (!answer || !answer->is_object()) return teller_.fail(nonsense(teller_.upstream(), framing_.what()));
    take_whole(*answer);
  }
  teller_.closed();
}

}  // namespace ashlar::gateway
