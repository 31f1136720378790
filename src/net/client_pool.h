// The HTTP client's work on one thread: its connections, those kept for reuse among them, and its alarms. That
// thread only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "net/client_link.h"
#include "net/client_task.h"
#include "net/http_client.h"
#include "net/io_thread.h"
#include "net/tls.h"

namespace ashlar::net {

// What HttpClient::after promises.
struct ClientAlarm {
  std::recursive_mutex mutex;  // `due` may drop its own Call
  bool over = false;           // GUARDED_BY(mutex)
  std::function<void()> due;
  std::optional<Deadlines::Entry> entry;  // the pool's thread only
};

class ClientPool {
 public:
  // What it is given outlives it.
  ClientPool(IoThread& thread, const ClientOptions& options, std::shared_ptr<const TlsContext> tls)
      : thread(thread), options(options), tls(std::move(tls)) {}
  // Ends all that is under way with `cancelled`, and starts nothing more.
  void end();

  void start(std::shared_ptr<ClientTask> task);
  // On a connection that stands: calls nobody back before it returns. False: there is none.
  bool start_at_once(const std::shared_ptr<ClientTask>& task);
  void cancel(const ClientTask& task);
  void arm(const std::shared_ptr<ClientAlarm>& alarm, TimePoint when);
  void disarm(const std::shared_ptr<ClientAlarm>& alarm);

  // The rest is for links.
  // False: enough are kept already.
  bool keep(const std::shared_ptr<ClientLink>& link);
  void forget(const std::shared_ptr<ClientLink>& link);

  IoThread& thread;
  const ClientOptions& options;
  const std::shared_ptr<const TlsContext> tls;

 private:
  Result<std::string> place(ClientTask& task) const;
  bool serve_kept(const std::shared_ptr<ClientTask>& task, const std::string& key);

  std::unordered_set<std::shared_ptr<ClientLink>> links_;
  std::map<std::string, std::vector<std::shared_ptr<ClientLink>>> idle_;  // the latest used last
  std::unordered_set<std::shared_ptr<ClientAlarm>> alarms_;
  bool ending_ = false;
};

}  // namespace ashlar::net
