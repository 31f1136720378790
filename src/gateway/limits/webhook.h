// Messages to somebody's web server, a few times tried, on a thread of its own.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "gateway/limits/limits.h"
#include "net/http_client.h"

namespace ashlar::gateway {

struct WebhookOptions {
  std::string url;
  std::string authorization;         // a header's value; empty: none
  std::size_t most_waiting = 1'000;  // what comes on top is dropped, and counted
  int tries = 5;
  std::chrono::milliseconds pause{1'000};     // after the first try; doubles
  std::chrono::milliseconds timeout{10'000};  // of one try
};

// Any thread. What waits when it dies is dropped.
class Webhook {
 public:
  // `client` must outlive it.
  Webhook(net::HttpClient& client, WebhookOptions options);
  ~Webhook();

  // A JSON body, by POST. Returns at once; false: too many wait. Messages go one at a time, in order; one that is not
  // answered by a status from 200 to 299 is tried again, save after 4xx other than 408 and 429.
  bool post(std::string body);

  struct Counts {
    std::uint64_t delivered = 0, failed = 0, dropped = 0;
  };
  Counts counts() const;

 private:
  void work(const std::stop_token& stop);
  bool deliver(const std::string& body, const std::stop_token& stop);

  net::HttpClient& client_;
  const WebhookOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<std::string> waiting_;  // GUARDED_BY(mutex_)
  Counts counts_;                    // GUARDED_BY(mutex_)
  std::jthread thread_;              // last: it ends before what it uses
};

// {"event":"budget_alert","limit":...,"who":...,"percent":...,"used_nano_dollars":...,"capacity_nano_dollars":...}
std::string alert_json(const BudgetAlert& alert);

}  // namespace ashlar::gateway
