// Keeps the answers that are under way.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <unordered_map>
#include <vector>

#include "api/answer.h"

namespace ashlar::api {

// Owns every Answer and one thread, which destroys them (whereby their tickets are
// cancelled) and pings the quiet ones, so that neither the generator's thread nor
// the network's waits for a ticket's death. One that has ended on its client's own
// network thread dies there a moment later: nobody is left to be waited for.
class Keeper : public std::enable_shared_from_this<Keeper> {
 public:
  explicit Keeper(std::chrono::milliseconds ping_interval);
  ~Keeper();  // cancels all that is still under way

  // Starts the requests and answers the exchange from their events, until they
  // are done, fail, or the client is gone.
  void start(std::shared_ptr<net::Exchange> exchange, engine::Generator& generator, std::unique_ptr<Dialect> dialect,
             Reply reply, std::vector<engine::Request> requests);

  // The client left. Any thread.
  void drop(std::uint64_t number);
  // The answer has ended. Any thread, within a sink's call too; a number not kept
  // (yet) is fine: keep() looks whether the answer is over.
  void ended(std::uint64_t number);

 private:
  using Held = std::shared_ptr<Answer>;
  void keep(Held answer);
  void work(std::stop_token stop);
  void ping_all();

  const std::chrono::milliseconds ping_interval_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::unordered_map<std::uint64_t, Held> answers_;  // guarded by mutex_
  std::vector<std::uint64_t> dropped_;               // guarded by mutex_
  std::jthread thread_;                              // last: it uses all of the above
};

}  // namespace ashlar::api
