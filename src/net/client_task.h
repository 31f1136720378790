// One call under way in the HTTP client: what send() was given, where its callbacks end, and how far it is.
#pragma once

#include <algorithm>
#include <chrono>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "net/http_client.h"
#include "net/protocol.h"

namespace ashlar::net {

class ClientLink;

class ClientTask {
 public:
  ClientTask(ClientRequest&& request, ClientCallbacks&& callbacks)
      : request(std::move(request)), callbacks_(std::move(callbacks)) {}

  // Each holds the lock while the callback runs, so that cancel() can wait for it.
  void connected(const std::string& address) {
    const std::lock_guard lock(mutex_);
    if (!over_ && callbacks_.on_connect) callbacks_.on_connect(address);
  }
  void head(int status, const Headers& headers) {
    const std::lock_guard lock(mutex_);
    if (!over_ && callbacks_.on_head) callbacks_.on_head(status, headers);
  }
  void data(std::string_view piece) {
    const std::lock_guard lock(mutex_);
    if (!over_ && callbacks_.on_data) callbacks_.on_data(piece);
  }
  void done(Status status) {
    const std::lock_guard lock(mutex_);
    if (std::exchange(over_, true)) return;
    if (callbacks_.on_done) callbacks_.on_done(std::move(status));
  }
  // Any thread. No callback runs after it, but for the one that may have called it.
  void cancel() {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  // Any thread.
  bool is_over() {
    const std::lock_guard lock(mutex_);
    return over_;
  }

  // Frees what was sent.
  void forget_request() {
    std::string().swap(request.body);
    Headers().swap(request.headers);
  }

  // What changes nothing by being asked twice (RFC 9110, 9.2.2).
  bool is_repeatable() const {
    static constexpr std::string_view kSafe[] = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"};
    return request.repeatable || std::ranges::find(kSafe, request.method) != std::end(kSafe);
  }
  std::chrono::milliseconds connect_timeout(const ClientOptions& options) const {
    return request.connect_timeout.count() > 0 ? request.connect_timeout : options.connect_timeout;
  }
  std::chrono::milliseconds response_timeout(const ClientOptions& options) const {
    return request.response_timeout.count() > 0 ? request.response_timeout : options.response_timeout;
  }

  // The client's thread only.
  ClientRequest request;
  Url url;
  std::optional<Proxy> proxy;               // on the way to it
  TimePoint until = kNever;                 // of the whole call
  int repeats = 0;                          // on other connections
  bool http1 = false;                       // is what it is asked in, whatever the server could speak beside
  TimePoint not_before = TimePoint::min();  // connections that are older are not trusted with it
  std::weak_ptr<ClientLink> link;           // what serves it now

 private:
  std::recursive_mutex mutex_;  // a callback may drop its own Call
  bool over_ = false;           // GUARDED_BY(mutex_)
  const ClientCallbacks callbacks_;
};

}  // namespace ashlar::net
