// Both ends of an Exchange inside this room: what the handler holds (any thread)
// turns each call into an AnswerPart and sends it through its connection's door;
// the protocol (the connection's io thread) keeps the Line to tell it of the end.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "net/http.h"

namespace ashlar::net {

// One call on an exchange, on its way to the io thread.
struct AnswerPart {
  enum class Kind { respond, begin, write, end, dropped };
  Kind kind;
  std::uint32_t stream;  // which request of the connection
  int status = 0;
  Headers headers;
  std::string data;
  Marks marks;  // behind the data
};

// Takes parts to a connection, in order. Any thread; never blocks. Parts for a
// connection that is gone are thrown away.
class AnswerDoor {
 public:
  virtual ~AnswerDoor() = default;
  virtual void send(AnswerPart part) = 0;
  // Runs `task` on the network thread, or here if the server has stopped.
  virtual void run(std::function<void()> task) = 0;
  // As Exchange has it.
  virtual bool later(std::function<void()> task) {
    (void)task;
    return false;
  }
};

// What an exchange and its connection know of each other.
class Line {
 public:
  Line();
  // io thread: the client is gone before the end. Calls `gone` if one was given.
  void hang_up();
  // io thread: the answer has ended (or cannot be given any more).
  void finish();
  // Any thread: no part sent now would have an effect.
  bool closed() const { return closed_.load(std::memory_order_relaxed); }
  // Any thread. True: already gone, and `gone` was not kept.
  bool listen(std::function<void()>& gone);

 private:
  std::mutex mutex_;
  std::function<void()> gone_;  // GUARDED_BY(mutex_)
  bool is_gone_ = false;        // GUARDED_BY(mutex_)
  std::atomic<bool> closed_{false};
};

// Makes the exchange for `request`, number `stream` of its connection, and calls
// the handler with it. What the handler throws is logged and answered 500.
std::shared_ptr<Line> open_exchange(const Handler& handler, std::shared_ptr<AnswerDoor> door, std::uint32_t stream,
                                    HttpRequest&& request);

}  // namespace ashlar::net
