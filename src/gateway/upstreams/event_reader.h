// An answer in server-sent events, or in one JSON object where the upstream gives that instead.
#pragma once

#include <string_view>

#include "base/json.h"
#include "gateway/upstreams/framing.h"
#include "gateway/upstreams/teller.h"
#include "gateway/upstreams/wire.h"
#include "net/sse.h"

namespace ashlar::gateway {

class EventReader : public Reader {
 public:
  EventReader(const net::Headers& headers, Teller& teller) : teller_(teller), framing_(headers) {}
  void read(std::string_view bytes) final;
  void end() final;

 protected:
  virtual void take_event(const net::SseEvent& event) = 0;
  virtual void take_whole(const Json& answer) = 0;  // an object

  Teller& teller_;

 private:
  Framing framing_;
  net::SseReader sse_{4 << 20};
};

}  // namespace ashlar::gateway
