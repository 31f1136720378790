// One network thread: its event loop, its deadlines, and the buffers that all
// connections on it read through. Exchanges keep it alive after its server is
// gone; nothing runs on it then.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/threads.h"
#include "net/deadlines.h"

namespace ashlar::net {

using Executor = boost::asio::io_context::executor_type;

class IoThread : public std::enable_shared_from_this<IoThread> {
 public:
  // What lives on the thread beside its owner's own, and is told when it ends. On the thread.
  class Tenant {
   public:
    virtual ~Tenant() = default;
    virtual void thread_ends() = 0;
  };

  // What is put off until the end of a turn: what a socket that became ready set going.
  class PutOff {
   public:
    virtual ~PutOff() = default;
    virtual void turn_ends() = 0;
  };
  // Lives while a turn runs. On the thread.
  class Turn {
   public:
    explicit Turn(IoThread& thread) : thread_(thread) { thread_.in_turn_ = true; }
    ~Turn() { thread_.end_turn(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    IoThread& thread_;
  };

  static constexpr std::size_t kScratch = 64 << 10;

  // Starts the thread, to stay on `core` if one is given; it runs until finish().
  void start(const char* name, std::optional<int> core = {});
  // On the thread: ends its tenants, takes no more tasks, and ends when what is under way has ended.
  void finish();
  // On the thread; whoever has died by then is not told. Where it is ending already, that is told at once.
  void take_in(const std::weak_ptr<Tenant>& tenant);
  void join() { thread_.join(); }

  // Whether the caller runs on it.
  bool is_this() const { return current() == this; }
  // The one that the caller runs on; null: on none.
  static IoThread* current();

  // Runs `task` on this thread; false, and nothing, if it has finished. Any thread.
  bool post(std::function<void()> task);
  // Tells it at the end of the turn that runs: no way through the event loop, which would ask the kernel first. False,
  // and nothing, where the caller is no part of a turn. Any thread.
  bool put_off(const std::shared_ptr<PutOff>& what);
  // Runs `task` on this thread and waits for it. Any other thread; not after finish().
  void call(FunctionRef<void()> task);

  boost::asio::io_context io{1};
  Deadlines deadlines{io};
  const std::unique_ptr<char[]> scratch{new char[kScratch]};  // what a readable socket is read into
  std::string plain;                                          // and then opened into, under TLS

 private:
  void loop(const char* name, std::optional<int> core);
  void end_turn();

  boost::asio::executor_work_guard<Executor> work_{io.get_executor()};
  std::vector<std::weak_ptr<Tenant>> tenants_;  // the thread's own, as are the next
  std::vector<std::shared_ptr<PutOff>> put_off_, ending_;
  bool in_turn_ = false;
  bool ends_ = false;
  std::mutex mutex_;
  bool finished_ = false;  // GUARDED_BY(mutex_)
  std::thread thread_;
};

}  // namespace ashlar::net
