// Connections that queries borrow: made when they are wanted, at most so many, kept
// while they are whole.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/result.h"

namespace ashlar::store {

// Any thread. Outlives what it lends.
template <class Connection>
class Pool {
 public:
  using Make = std::function<Result<std::unique_ptr<Connection>>()>;
  Pool(int most, Make make) : free_(most), make_(std::move(make)) {}

  // Given back when it dies.
  class Lent {
   public:
    Lent(Pool& pool, std::unique_ptr<Connection> connection) : pool_(&pool), connection_(std::move(connection)) {}
    Lent(Lent&&) noexcept = default;
    Lent& operator=(Lent&&) = delete;
    ~Lent() {
      if (connection_ != nullptr) pool_->take_back(std::move(connection_));
    }
    Connection& operator*() const { return *connection_; }
    Connection* operator->() const { return connection_.get(); }

   private:
    Pool* pool_;
    std::unique_ptr<Connection> connection_;
  };

  // unavailable: all are lent for longer than `patience`; or why none could be made.
  Result<Lent> borrow(std::chrono::milliseconds patience) {
    {
      std::unique_lock lock(mutex_);
      if (!given_back_.wait_for(lock, patience, [this] { return free_ > 0; }))
        return Error{Code::unavailable, "the database is busy: as many queries run as are allowed at once; try again"};
      --free_;
      while (!idle_.empty()) {
        auto connection = std::move(idle_.back());
        idle_.pop_back();
        if (connection->is_whole()) return Lent(*this, std::move(connection));
      }
    }
    auto made = make_();
    if (!made) {
      take_back(nullptr);
      return std::move(made).error();
    }
    return Lent(*this, *std::move(made));
  }

 private:
  void take_back(std::unique_ptr<Connection> connection) {
    const bool whole = connection != nullptr && connection->is_whole();
    {
      const std::lock_guard lock(mutex_);
      ++free_;
      if (whole) idle_.push_back(std::move(connection));
    }
    given_back_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable given_back_;
  int free_;
  std::vector<std::unique_ptr<Connection>> idle_;
  const Make make_;
};

}  // namespace ashlar::store
