// The HTTP client's work on one thread: its connections, those kept for reuse among them, and its alarms. That
// thread only.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
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
  // It is made, and serves what it was made for.
  void made(const std::shared_ptr<ClientLink>& link, bool http2);
  // It has room: it is given what waits. False: it is not wanted.
  bool offer(const std::shared_ptr<ClientLink>& link);
  // Servers of this name are asked in HTTP/1.1 for some minutes.
  void speak_http1(const std::string& name);
  // It is closed, because of `why`.
  void forget(const std::shared_ptr<ClientLink>& link, const Error& why);

  IoThread& thread;
  const ClientOptions& options;
  const std::shared_ptr<const TlsContext> tls;

 private:
  struct Waiting {
    Waiting(std::shared_ptr<ClientTask> task, Deadlines& deadlines, std::function<void()> due)
        : task(std::move(task)), until(deadlines, std::move(due)) {}
    std::shared_ptr<ClientTask> task;
    Deadlines::Entry until;
  };
  // What is known of one scheme, host and port, while there are connections to it.
  struct Host {
    std::vector<std::shared_ptr<ClientLink>> idle;    // HTTP/1.1, the latest used last
    std::vector<std::shared_ptr<ClientLink>> shared;  // HTTP/2
    std::list<Waiting> waiting;                       // for room on those, or for the one that is being made
    const ClientLink* making = nullptr;               // for who waits, until it says how much room it has
    int links = 0;
    bool http1 = false;  // is what it spoke last
    int lost = 0;        // connections for who waits that were made and lost before the server spoke, in a row
  };
  // Where a URL leads.
  struct Way {
    Url url;
    std::optional<Proxy> proxy;
    std::string key;
  };
  Result<std::string> place(ClientTask& task);
  bool may_share(const ClientTask& task) const;
  std::shared_ptr<ClientLink> take_free(Host& host, const ClientTask& task);
  void make(const std::string& key, std::shared_ptr<ClientTask> task, bool for_waiting);
  void wait(const std::string& key, std::shared_ptr<ClientTask> task);
  void waited_enough(const std::string& key, const ClientTask& task);
  void make_for_waiting(const std::string& key);
  void drop_if_empty(const std::string& key);

  std::unordered_set<std::shared_ptr<ClientLink>> links_;
  std::map<std::string, Host> hosts_;
  std::map<std::string, TimePoint> http1_until_;  // of servers that wanted it
  std::unordered_map<std::string, Way> ways_;     // by their texts, of requests before
  std::unordered_set<std::shared_ptr<ClientAlarm>> alarms_;
  bool ending_ = false;
};

}  // namespace ashlar::net
