// One connection's HTTP, without its socket: bytes in, exchanges out, answers in,
// bytes out. Connection drives it on its io thread; tests and the fuzz target
// drive it in memory.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "net/exchange.h"
#include "net/http.h"
#include "net/http_server.h"
#include "net/http_text.h"
#include "net/outbox.h"

namespace ashlar::net {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
constexpr TimePoint kNever = TimePoint::max();

// Memory for the request bodies that are arriving, shared by all connections of
// a server. Any thread.
class BodyBudget {
 public:
  explicit BodyBudget(Bytes most) : most_(most.count) {}

  // A part of the budget, given back when it dies. One thread.
  class Share {
   public:
    explicit Share(BodyBudget& budget) : budget_(budget) {}
    ~Share() { budget_.used_ -= taken_; }
    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;
    // False: the budget has no more; this share stays as it was.
    bool take(std::uint64_t bytes);

   private:
    BodyBudget& budget_;
    std::uint64_t taken_ = 0;
  };

 private:
  const std::uint64_t most_;
  std::atomic<std::uint64_t> used_{0};
};

// A request while it arrives.
struct Arriving {
  explicit Arriving(BodyBudget& budget) : share(budget) {}
  HttpRequest request;
  BodyBudget::Share share;

  // Adds to the body, or says why it must not: over `most`, over the budget, out of memory.
  std::optional<Refusal> add(std::string_view bytes, Bytes most);
};

Refusal body_too_large(Bytes most);

// What a connection gives its protocol; all of it outlives the protocol.
struct ProtocolHome {
  const ServerOptions& options;
  const Handler& handler;
  BodyBudget& bodies;
  std::shared_ptr<AnswerDoor> door;
  std::string peer;
  bool tls = false;
  std::shared_ptr<const std::vector<std::string>> peer_names;  // as HttpRequest has them
  Outbox& out;
};

class Protocol {
 public:
  virtual ~Protocol() = default;

  // The client's next bytes. They are not kept by reference.
  virtual void receive(std::string_view bytes) = 0;
  // The client will send no more.
  virtual void receive_end() = 0;
  // False while so much is held that the client should wait.
  virtual bool wants_input() const = 0;

  virtual void answer(AnswerPart&& part) = 0;
  // Moves what waited for room into `out`, until it holds `target` bytes.
  virtual void fill(std::size_t /*target*/) {}

  // No further request; what has begun is answered.
  virtual void drain() = 0;
  // The connection is lost: every open exchange is told. Nothing follows but
  // the destructor.
  virtual void lost() = 0;

  // When the client will have taken too long, and what then happens.
  virtual TimePoint deadline() const = 0;
  virtual void expire(TimePoint now) = 0;

  enum class Fate {
    open,
    close,  // once `out` is empty
    reset,  // now, without sending the rest
  };
  virtual Fate fate() const = 0;
  // Requests under way: begun to arrive, or not yet wholly answered.
  virtual bool busy() const = 0;
};

std::unique_ptr<Protocol> make_http1(ProtocolHome& home);
std::unique_ptr<Protocol> make_http2(ProtocolHome& home);

// The first bytes of every HTTP/2 connection (RFC 9113, 3.4).
constexpr std::string_view kHttp2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

}  // namespace ashlar::net
