// Many deadlines on one timer. Deadlines move often and seldom pass, so moving
// one later costs nothing: it is looked at again when its old time comes.
// One io thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <set>
#include <utility>

#include "net/protocol.h"

namespace ashlar::net {

class Deadlines {
 public:
  explicit Deadlines(boost::asio::io_context& io) : timer_(io) {}

  // One deadline; lives in the object that waits, and dies before Deadlines.
  class Entry {
   public:
    Entry(Deadlines& all, std::function<void()> due) : all_(all), due_(std::move(due)) {}
    ~Entry() { unlist(); }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    // `due` is called once at `when` or shortly after; kNever: not at all.
    void set(TimePoint when);

   private:
    friend class Deadlines;
    void unlist();

    Deadlines& all_;
    const std::function<void()> due_;
    TimePoint wanted_ = kNever;
    TimePoint listed_ = kNever;  // its key in the list; never later than wanted_
  };

  // Forgets the pending wait, so that the io_context may run out of work.
  void stop();

 private:
  void arm();
  void pass();

  boost::asio::steady_timer timer_;
  TimePoint armed_ = kNever;
  bool stopped_ = false;
  std::set<std::pair<TimePoint, Entry*>> list_;
};

}  // namespace ashlar::net
