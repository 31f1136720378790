// The server's own certificate: read anew when its files change, and told of before it ends.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "gateway/events/event_log.h"
#include "net/http_server.h"

namespace ashlar::cli {

// turn() and renew() on one thread at a time; the rest on any.
class Certificate {
 public:
  // Both outlive it. `now`: of the machine's clock; null: its own.
  Certificate(net::HttpServer& server, const net::ServerOptions& options, gateway::EventLog& events,
              std::function<std::chrono::system_clock::time_point()> now = {});

  // To be called once a second or so: files that differ, and look the same twice, are read. One that cannot be used
  // is told of once, and the one before stays.
  void turn();
  // Reads them in any case.
  void renew();
  // A sentence for an operator while it ends within 30 days, or has ended, or files were refused; "": all is well.
  std::string trouble() const;

 private:
  std::vector<std::string> look() const;
  void tell(const char* kind, gateway::Severity severity, const std::string& message);
  void watch_end();

  net::HttpServer& server_;
  const std::vector<std::string> files_;  // none: the server is plain
  gateway::EventLog& events_;
  const std::function<std::chrono::system_clock::time_point()> now_;
  Gauge ends_{"http_certificate_ends_seconds", "When the server's certificate ends, in seconds since 1970; 0: it has none."};
  std::vector<std::string> read_, seen_;  // as the files were
  int warned_ = 0;                        // steps of the alarm that were told
  mutable std::mutex mutex_;
  std::string refused_, ending_;  // GUARDED_BY(mutex_)
};

}  // namespace ashlar::cli
