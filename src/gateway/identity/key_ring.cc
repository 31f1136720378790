#include "gateway/identity/key_ring.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/threads.h"

namespace ashlar::gateway {
namespace {

// The first bytes of a hash are as good as a hash of it.
std::uint64_t head(const KeyHash& hash) {
  std::uint64_t out = 0;
  std::memcpy(&out, hash.data(), sizeof out);
  return out;
}

struct Entry {
  KeyHash hash;
  std::int64_t until;  // 0: for ever
  bool blocked;
  std::vector<Network> networks;
  Who who;
};

struct Team {
  std::string tenant;
  std::vector<std::string> models;
  bool blocked = false;
};

class Teams {
 public:
  void add(const TeamRecord& record) {
    teams_[record.name] = {record.tenant, record.models, record.blocked};
    for (const std::string& user : record.members) team_of_.emplace(user, record.name);
  }

  // Changes who it is by his team; gives that, null: none that is kept.
  const Team* apply(Principal& who) const {
    if (who.team.empty())
      if (const auto found = team_of_.find(who.user); found != team_of_.end()) who.team = found->second;
    const auto found = teams_.find(who.team);
    if (who.team.empty() || found == teams_.end()) return nullptr;
    const Team& team = found->second;
    if (who.tenant == who.key_id && !team.tenant.empty()) who.tenant = team.tenant;
    who.team_models = team.models;
    return &team;
  }
  bool touches(const Principal& who) const { return teams_.contains(who.team) || team_of_.contains(who.user); }

 private:
  std::unordered_map<std::string, Team> teams_;
  std::unordered_map<std::string, std::string> team_of_;  // a user
};

// Frozen once made.
struct Snapshot {
  std::int64_t generation = 0;
  std::unordered_multimap<std::uint64_t, Entry> entries;
  Teams teams;
};

Principal principal_of(const KeyRecord& record) {
  return {
      .key_id = record.id,
      .name = record.name,
      .user = record.user,
      .team = record.team,
      .tenant = record.tenant.empty() ? record.id : record.tenant,
      .roles = record.roles,
      .models = record.models,
      .tags = record.tags,
      .output_cap = record.output_cap,
      .min_priority = record.min_priority,
      .proof = Proof::key,
  };
}

std::int64_t earlier(std::int64_t a, std::int64_t b) { return a == 0 || (b != 0 && b < a) ? b : a; }

Result<std::shared_ptr<const Snapshot>> read(KeyStore& keys, TeamStore* teams) {
  auto out = std::make_shared<Snapshot>();
  out->generation = TRY(keys.generation());  // before the keys: what changes between is read again
  if (teams != nullptr)
    for (const TeamRecord& record : TRY(teams->list())) out->teams.add(record);
  for (const KeyRecord& record : TRY(keys.list())) {
    Principal principal = principal_of(record);
    const Team* const team = out->teams.apply(principal);
    const bool blocked = record.blocked || (team != nullptr && team->blocked);
    const Who who = std::make_shared<const Principal>(std::move(principal));
    auto parsed = parse_networks(record.networks);
    if (!parsed) {  // one row that somebody broke must not shut out the others
      log::error("key_unreadable", {{"key", record.id}, {"why", parsed.error().message}});
      continue;
    }
    const std::vector<Network> networks = std::move(*parsed);
    out->entries.emplace(head(record.hash), Entry{record.hash, record.expires_at, blocked, networks, who});
    if (record.previous_hash)
      out->entries.emplace(
          head(*record.previous_hash),
          Entry{*record.previous_hash, earlier(record.expires_at, record.previous_until), blocked, networks, who});
  }
  return std::shared_ptr<const Snapshot>(std::move(out));
}

class Ring final : public KeyRing {
 public:
  Ring(KeyStore& keys, TeamStore* teams, std::function<std::int64_t()> unix_seconds,
       std::shared_ptr<const Snapshot> first)
      : keys_(keys),
        teams_(teams),
        unix_seconds_(std::move(unix_seconds)),
        used_(!first->entries.empty()),
        snapshot_(std::move(first)),
        thread_([this](const std::stop_token& stop) { watch(stop); }) {}

  bool used() const override { return used_; }

  Result<Who> find(std::string_view text, const std::optional<Address>& from) const override {
    const Error wrong{Code::unauthorized, "the API key is not valid"};
    switch (judge_key_text(text)) {
      case KeyText::foreign:
        return wrong;
      case KeyText::mistyped:
        return Error{Code::unauthorized, "the API key is mistyped or cut: its checksum does not fit"};
      case KeyText::whole:
        break;
    }
    const KeyHash hash = hash_key(text);
    const auto snapshot = current();
    const auto [first, last] = snapshot->entries.equal_range(head(hash));
    const Entry* found = nullptr;
    for (auto at = first; at != last; ++at)
      if (CRYPTO_memcmp(at->second.hash.data(), hash.data(), hash.size()) == 0) found = &at->second;
    if (found == nullptr) return wrong;
    const auto refuse = [&](std::string_view why) {
      log::debug("key_refused", {{"key", found->who->key_id}, {"why", why}});
      return wrong;
    };
    if (found->blocked) return refuse("blocked");
    if (found->until != 0 && unix_seconds_() >= found->until) return refuse("expired");
    if (!found->networks.empty() && !(from && contains_any(found->networks, *from))) return refuse("network");
    return found->who;
  }

  Result<Who> with_team(Who who) const override {
    const auto snapshot = current();
    if (!snapshot->teams.touches(*who)) return who;
    Principal changed = *who;
    const Team* const team = snapshot->teams.apply(changed);
    if (team != nullptr && team->blocked)
      return Error{Code::forbidden, fmt::format("the team '{}' is blocked", changed.team)};
    return std::make_shared<const Principal>(std::move(changed));
  }

  std::string trouble() const override {
    const std::lock_guard lock(mutex_);
    return trouble_;
  }

  Status reload() override {
    const std::lock_guard reading(reading_);  // so that none takes the place of a later one
    take(TRY(read(keys_, teams_)));
    return {};
  }

 private:
  std::shared_ptr<const Snapshot> current() const {
    const std::lock_guard lock(mutex_);
    return snapshot_;
  }

  void take(std::shared_ptr<const Snapshot> snapshot) {
    if (!snapshot->entries.empty()) used_ = true;
    const std::lock_guard lock(mutex_);
    snapshot_.swap(snapshot);  // the old one dies outside of the lock, or with its last reader
    trouble_.clear();
  }

  void watch(const std::stop_token& stop) {
    begin_thread("keys");
    std::mutex still;
    std::condition_variable_any never;
    std::unique_lock lock(still);
    while (!never.wait_for(lock, stop, kBehind, [&] { return stop.stop_requested(); })) {
      const auto generation = keys_.generation();
      Status done;
      if (!generation)
        done = std::unexpected(generation.error());
      else if (*generation != current()->generation || !trouble().empty())
        done = reload();
      if (!done) complain(done.error());
    }
  }

  void complain(const Error& error) {
    const std::lock_guard lock(mutex_);
    if (trouble_.empty()) log::warn("keys_not_read", {{"why", error.message}});
    trouble_ = "API keys may be out of date, those last read are used: " + error.message;
  }

  KeyStore& keys_;
  TeamStore* const teams_;
  const std::function<std::int64_t()> unix_seconds_;
  std::atomic<bool> used_;
  std::mutex reading_;  // taken before mutex_
  mutable std::mutex mutex_;
  std::shared_ptr<const Snapshot> snapshot_;  // GUARDED_BY(mutex_)
  std::string trouble_;                       // GUARDED_BY(mutex_)
  std::jthread thread_;
};

}  // namespace

Result<std::unique_ptr<KeyRing>> KeyRing::open(KeyStore& keys, std::function<std::int64_t()> unix_seconds,
                                               TeamStore* teams) {
  auto first = TRY(read(keys, teams));
  return std::make_unique<Ring>(keys, teams, std::move(unix_seconds), std::move(first));
}

}  // namespace ashlar::gateway
