// What an upstream's requests share: how it is spoken to, its connections, its health, its budget for retries.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "engine/generator.h"
#include "gateway/upstreams/options.h"
#include "gateway/upstreams/prefix_copy.h"
#include "gateway/upstreams/retries.h"
#include "gateway/upstreams/standing.h"
#include "gateway/upstreams/told_load.h"
#include "gateway/upstreams/wire.h"
#include "net/http_client.h"

namespace ashlar::gateway {

struct UpstreamMetrics {
  explicit UpstreamMetrics(const std::string& name)
      : requests("upstream_requests_total", "Requests given to an upstream.", {{"upstream", name}}),
        failures("upstream_failures_total", "Those that failed in the end.", {{"upstream", name}}),
        retries("upstream_retries_total", "Further attempts after a failed one.", {{"upstream", name}}),
        hedges("upstream_hedges_total", "Second attempts beside a slow one.", {{"upstream", name}}),
        running("upstream_running", "Requests under way at an upstream.", {{"upstream", name}}),
        healthy("upstream_healthy", "1 while an upstream answers its probes; 0 until it has.", {{"upstream", name}}) {}
  Counter requests, failures, retries, hedges;
  Gauge running, healthy;
};

// Any thread, but for what says otherwise.
class UpstreamState {
 public:
  static Result<std::shared_ptr<UpstreamState>> create(UpstreamOptions options);
  ~UpstreamState();

  const UpstreamOptions options;
  RetryBudget budget;
  UpstreamMetrics metrics;

  const Wire& wire() const { return *wire_; }
  net::HttpClient& client() { return *client_; }
  // `request` as it goes out: signed, with our deadlines, to the address that was found fit.
  net::ClientRequest outgoing(net::ClientRequest request, std::chrono::milliseconds silence) const;
  // A connection to `address` was made, or none could be: the next looks the name up again.
  void connected(const std::string& address);
  void unreachable();

  // What it calls the model that we serve as `name`; nullopt: it serves none such.
  std::optional<std::string> model(const std::string& name) const;
  std::optional<engine::ModelCard> card(const std::string& name) const;
  std::vector<engine::ModelCard> cards() const;
  std::uint64_t cards_version() const { return cards_version_; }  // another once cards() are others

  // False while the probes say that it is down.
  bool healthy() const { return healthy_; }
  Standing standing() const;
  std::string trouble() const;
  void when_probed(std::function<void()> told);
  void begin_probes();

  // What it said last of how busy it is; 0, 0: nothing that holds now.
  ToldLoad told_load() const { return {.waiting = told_waiting_, .kv_used = told_memory_}; }
  // What it told of this model, which is asked for from now on. Null: nothing yet, or it does not tell.
  std::shared_ptr<const engine::CachedPrefixes> cached_prefixes(const std::string& name);

 private:
  UpstreamState(UpstreamOptions options, std::unique_ptr<Wire> wire);
  void probe();
  void probed(int status, const std::string& body, Status call);
  void learn(const std::vector<Listed>& listed);

  struct Watched {
    std::string model;
    std::shared_ptr<PrefixCopy> copy = std::make_shared<PrefixCopy>();
  };
  void watch_load();
  void load_told(Status call);
  void watch_prefixes(std::size_t next);
  void watched(std::size_t which, const PrefixCopy::Place& asked, Status call);

  const std::unique_ptr<Wire> wire_;
  const bool url_is_local_;
  std::atomic<bool> healthy_ = true;
  std::atomic<bool> known_ = false;  // a probe was answered, or as many failed as make it down
  std::atomic<std::uint64_t> cards_version_ = 0;
  std::atomic<int> told_waiting_ = 0;
  std::atomic<double> told_memory_ = 0;

  mutable std::mutex mutex_;
  std::string address_;                                          // GUARDED_BY(mutex_), as is all to the next line
  std::shared_ptr<const std::vector<engine::ModelCard>> cards_;  // never null
  std::string trouble_;
  std::vector<std::function<void()>> waiting_;  // for the first probe
  bool probed_ = false;
  std::vector<Watched> watched_;  // of those asked for

  // The client's thread only.
  int failures_ = 0;  // probes in a row
  int probe_status_ = 0;
  std::string probe_body_;
  std::unique_ptr<net::Call> probe_, pause_;
  int watch_status_ = 0;
  std::string watch_body_;
  std::unique_ptr<net::Call> watch_, watch_pause_;
  int load_status_ = 0;
  std::string load_body_;
  std::unique_ptr<net::Call> load_, load_pause_;
  // Set by begin_probes() alone: what they begin may be under way by then.
  std::unique_ptr<net::Call> probe_begin_, watch_begin_, load_begin_;

  std::unique_ptr<net::HttpClient> client_;  // last: its thread ends before the rest dies
};

}  // namespace ashlar::gateway
