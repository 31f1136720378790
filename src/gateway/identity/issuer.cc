#include "gateway/identity/issuer.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/metrics.h"
#include "base/nearest.h"
#include "gateway/identity/jwks_source.h"

namespace ashlar::gateway {
namespace {

using Steady = std::chrono::steady_clock;
using Keys = std::shared_ptr<const std::vector<Jwk>>;

constexpr std::size_t kMaxWaiting = 1024;  // tokens whose key is being fetched; more are refused

struct IssuerMetrics {
  Counter fetched{"gateway_jwks_fetches_total", "Key sets of issuers fetched.", {{"result", "ok"}}};
  Counter failed{"gateway_jwks_fetches_total", "Key sets of issuers fetched.", {{"result", "failed"}}};
};
IssuerMetrics& issuer_metrics() {
  static auto* metrics = new IssuerMetrics;
  return *metrics;
}

struct Waiting {
  std::string token;
  Identified done;
};

// One issuer. `options` and `source` never change; the rest is guarded by IssuersImpl's mutex.
struct Issuer {
  IssuerOptions options;
  std::unique_ptr<JwksSource> source;  // null where the keys are given; used by its thread alone
  Keys keys;                           // null: never fetched
  Steady::time_point fetched_at{};
  std::optional<Steady::time_point> tried_at;
  bool wanted = false, fetching = false;
  std::vector<Waiting> waiting;
  std::string trouble;
};

class IssuersImpl final : public Issuers {
 public:
  IssuersImpl(std::vector<std::unique_ptr<Issuer>> issuers, IssuerClocks clocks)
      : issuers_(std::move(issuers)), clocks_(std::move(clocks)) {
    for (const auto& issuer : issuers_)
      if (issuer->source != nullptr)
        threads_.emplace_back([this, &issuer = *issuer](const std::stop_token& stop) { work(stop, issuer); });
  }

  ~IssuersImpl() override {
    for (std::jthread& thread : threads_) thread.request_stop();
    threads_.clear();
    for (const auto& issuer : issuers_)
      for (Waiting& each : issuer->waiting)
        each.done(Error{Code::unavailable, "the server is shutting down: try again soon"});
  }

  void start_fetching() override {
    const std::lock_guard lock(mutex_);
    ahead_ = true;
    wake_.notify_all();
  }

  void verify(std::string token, Identified done) override {
    const Error wrong{Code::unauthorized, "the token is not valid"};
    const auto jws = parse_jws(token);
    if (!jws) return done(wrong);
    const std::string name = unproven_issuer(*jws);
    const auto found =
        std::ranges::find_if(issuers_, [&](const auto& each) { return each->options.rules.issuer == name; });
    if (found == issuers_.end()) return done(wrong);
    Issuer& issuer = **found;
    const Keys keys = fresh_keys(issuer);
    if (keys != nullptr) {
      auto who = judge(*jws, *keys, issuer);
      if (who || who.error().code != Code::not_found) return done(std::move(who));
    }
    if (!wait(issuer, token, done))
      done(keys != nullptr
               ? wrong
               : Error{Code::unavailable, "the keys of the token's issuer cannot be had now: try again soon"});
  }

  std::vector<std::string> troubles() const override {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> out;
    for (const auto& issuer : issuers_)
      if (!issuer->trouble.empty()) out.push_back(issuer->trouble);
    return out;
  }

 private:
  // not_found: signed with a key that is not among these.
  Result<Principal> judge(const Jws& jws, const std::vector<Jwk>& keys, const Issuer& issuer) const {
    TRY(check_signature(jws, keys, issuer.options.rules));
    return check_claims(jws, issuer.options.rules, clocks_.unix_seconds());
  }

  // Null: there are none, or they are too old to be trusted.
  Keys fresh_keys(const Issuer& issuer) const {
    const std::lock_guard lock(mutex_);
    const bool given = issuer.source == nullptr;
    if (given || (issuer.keys != nullptr && clocks_.steady() - issuer.fetched_at <= issuer.options.stale_for))
      return issuer.keys;
    return nullptr;
  }

  // Keeps the token until the keys have been fetched anew. False: they must not be now.
  bool wait(Issuer& issuer, std::string& token, Identified& done) {
    const std::lock_guard lock(mutex_);
    if (issuer.source == nullptr || issuer.waiting.size() >= kMaxWaiting) return false;
    const bool lately = issuer.tried_at && clocks_.steady() - *issuer.tried_at < issuer.options.min_interval;
    if (lately && !issuer.wanted && !issuer.fetching) return false;
    issuer.wanted = true;
    issuer.waiting.push_back({std::move(token), std::move(done)});
    wake_.notify_all();
    return true;
  }

  bool due(const Issuer& issuer) const {  // under the mutex
    if (issuer.source == nullptr) return false;
    if (issuer.wanted) return true;
    if (!ahead_ && issuer.keys == nullptr) return false;
    if (!issuer.tried_at) return true;
    const auto pause = issuer.trouble.empty() ? issuer.options.refresh
                                              : std::min(issuer.options.refresh, 3 * issuer.options.min_interval);
    return clocks_.steady() - *issuer.tried_at >= pause;
  }

  // A thread for each issuer, so that one that answers slowly holds up no other.
  void work(const std::stop_token& stop, Issuer& issuer) {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested()) {
      if (!due(issuer)) {
        wake_.wait_for(lock, stop, std::chrono::seconds(1), [&] { return due(issuer); });
        continue;
      }
      issuer.tried_at = clocks_.steady();
      issuer.fetching = true;
      lock.unlock();
      auto fetched = issuer.source->fetch();
      lock.lock();
      issuer.fetching = issuer.wanted = false;
      settle(issuer, std::move(fetched));
      const std::vector<Waiting> waiting = std::exchange(issuer.waiting, {});
      lock.unlock();
      for (const Waiting& each : waiting) answer(issuer, each);
      lock.lock();
    }
  }

  void settle(Issuer& issuer, Result<std::vector<Jwk>> fetched) {
    if (fetched && fetched->empty()) fetched = Error{Code::corrupt, "it publishes no key for signatures"};
    (fetched ? issuer_metrics().fetched : issuer_metrics().failed).add();
    if (fetched) {
      issuer.keys = std::make_shared<const std::vector<Jwk>>(std::move(*fetched));
      issuer.fetched_at = clocks_.steady();
      issuer.trouble.clear();
      return;
    }
    const auto& why = fetched.error().message;
    log::warn("jwks_not_fetched", {{"issuer", issuer.options.rules.issuer}, {"why", why}});
    issuer.trouble =
        fmt::format("the keys of the issuer '{}' could not be fetched: {}", issuer.options.rules.issuer, why);
  }

  void answer(const Issuer& issuer, const Waiting& waiting) const {
    const auto jws = parse_jws(waiting.token);
    const Keys keys = fresh_keys(issuer);
    if (keys == nullptr)
      return waiting.done(Error{Code::unavailable, "the keys of the token's issuer cannot be had now: try again soon"});
    auto who = judge(*jws, *keys, issuer);
    if (!who && who.error().code == Code::not_found) who = Error{Code::unauthorized, "the token is not valid"};
    waiting.done(std::move(who));
  }

  const std::vector<std::unique_ptr<Issuer>> issuers_;
  const IssuerClocks clocks_;
  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  bool ahead_ = false;  // GUARDED_BY(mutex_)
  std::vector<std::jthread> threads_;
};

}  // namespace

std::vector<IssuerFault> check_issuer(const IssuerOptions& options) {
  const IssuerRules& rules = options.rules;
  std::vector<IssuerFault> out;
  const auto needs = [&](const char* member, std::string why) { out.push_back({member, std::move(why), true}); };
  const auto bad = [&](const char* member, std::string why) { out.push_back({member, std::move(why)}); };
  if (rules.issuer.empty()) needs("issuer", "an issuer needs its 'issuer': what its tokens have as 'iss'");
  if (rules.audiences.empty())
    needs("audience",
          "an issuer needs its 'audience', what its tokens for this server have as 'aud': else tokens made for others "
          "would do");
  if (rules.algorithms.empty()) needs("algorithms", "an issuer needs its 'algorithms'");
  bool secret = false, open = false;
  for (const std::string& name : rules.algorithms) {
    const Algorithm* algorithm = find_algorithm(name);
    if (algorithm == nullptr)
      bad("algorithms",
          fmt::format("there is no algorithm '{}' for signatures{}", name, did_you_mean(name, algorithm_names())));
    else
      (algorithm->kind == Algorithm::Kind::hmac ? secret : open) = true;
  }
  // A public key must never serve as a secret (RFC 8725, 2.1).
  if (secret && open) bad("algorithms", "HS algorithms may not stand beside those of public keys");
  if (secret && !open && options.keys.empty()) needs("secret_file", "an HS algorithm needs a 'secret_file'");
  if (rules.claims.user.empty()) bad("claims", "'user' of 'claims' names no claim");
  if (rules.skew.count() < 0 || rules.skew > std::chrono::minutes(5)) bad("skew", "'skew' is between 0 and 5 minutes");
  if (secret || !options.keys.empty() || rules.issuer.empty()) return out;
  if (const Status fine = check_jwks_address(options); !fine)
    bad(options.jwks_url.empty() ? "issuer" : "jwks_url", fine.error().message);
  return out;
}

IssuerClocks system_clocks() {
  return {
      .unix_seconds =
          [] {
            return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
                .count();
          },
      .steady = [] { return Steady::now(); }};
}

Result<std::unique_ptr<Issuers>> Issuers::create(std::vector<IssuerOptions> options, IssuerClocks clocks) {
  std::vector<std::unique_ptr<Issuer>> issuers;
  std::set<std::string> seen;
  for (IssuerOptions& each : options) {
    if (const auto faults = check_issuer(each); !faults.empty())
      return Error{Code::invalid, fmt::format("issuer '{}': {}", each.rules.issuer, faults.front().why)};
    if (!seen.insert(each.rules.issuer).second)
      return Error{Code::invalid, fmt::format("issuer '{}' is listed twice", each.rules.issuer)};
    auto issuer = std::make_unique<Issuer>();
    if (each.keys.empty())
      issuer->source = TRY(JwksSource::create(each));
    else
      issuer->keys = std::make_shared<const std::vector<Jwk>>(std::move(each.keys));
    issuer->options = std::move(each);
    issuers.push_back(std::move(issuer));
  }
  return std::make_unique<IssuersImpl>(std::move(issuers), std::move(clocks));
}

bool looks_like_token(std::string_view text) { return text.starts_with("ey") && std::ranges::count(text, '.') == 2; }

}  // namespace ashlar::gateway
