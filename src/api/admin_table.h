// The admin API at work: from a path to its operation, from bytes to a call that fits its schema, and to threads that
// may wait.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "api/admin.h"
#include "api/replays.h"
#include "api/routes.h"
#include "gateway/events/event_log.h"
#include "net/http.h"

namespace ashlar::api {

// Any thread. What waits for a thread when it dies is not answered by it.
class AdminTable {
 public:
  // Adds GET /admin/v1/openapi.json. `events` may be null and outlives this.
  AdminTable(std::vector<AdminOperation> operations, gateway::EventLog* events);
  ~AdminTable() { end(); }
  // Waits for what runs; from then on, run() refuses.
  void end();

  struct Found {
    const AdminOperation* operation = nullptr;  // null: no such path, or not by this method
    std::map<std::string, std::string> path;
    std::string allow;  // the methods of the path; "": there is no such path
  };
  // Whether a path is the admin API's.
  static bool has(std::string_view path) { return path.starts_with("/admin/"); }
  // A "{name}" stands for one or more parts of a path, since names of models hold slashes; of two templates that fit,
  // the one with more parts of its own is meant.
  Found find(const net::HttpRequest& request) const;

  // Checks what was sent and lets a thread run it. The caller has seen that `call.who` may.
  Outcome<void> run(const Call& call, Found found);

  const std::vector<AdminOperation>& operations() const { return *operations_; }

 private:
  struct Running;
  void work(const std::stop_token& stop);
  void start(const std::shared_ptr<Running>& running);

  std::shared_ptr<const std::vector<AdminOperation>> operations_;  // with calls that end later than this
  gateway::EventLog* const events_;
  const std::shared_ptr<Replays> replays_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<std::function<void()>> waiting_;  // GUARDED_BY(mutex_)
  bool ended_ = false;                         // GUARDED_BY(mutex_)
  std::vector<std::jthread> threads_;          // last: they end before what they use
};

// OpenAPI 3.1 of these operations and of the public routes.
Json openapi(const std::vector<AdminOperation>& operations);

}  // namespace ashlar::api
