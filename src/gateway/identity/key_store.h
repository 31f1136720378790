// API keys as they are kept: one row each, under their hashes, in the state's database.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gateway/identity/api_key.h"
#include "gateway/identity/principal.h"
#include "store/database.h"

namespace ashlar::gateway {

// Whose a key is and what it may do; times are seconds of Unix.
struct KeyRecord {
  std::string id;    // "key_..."; it stays when the key is rotated
  std::string name;  // for people; need not be the only one of its name
  std::string prefix;
  std::string user, team, tenant;  // "": none
  Roles roles{Role::developer};
  std::vector<std::string> models;    // patterns; none: every model
  std::vector<std::string> networks;  // from where; none: anywhere
  Tags tags;
  std::string metadata = "{}";  // a JSON object, for whoever administers
  int output_cap = 0;
  int min_priority = 0;
  std::int64_t created_at = 0;
  std::int64_t expires_at = 0;  // 0: never
  bool blocked = false;
  KeyHash hash{};
  std::optional<KeyHash> previous_hash;  // of before the last rotation
  std::int64_t previous_until = 0;       // it is valid until then
};

// The whole text, which cannot be had again, beside what is kept.
struct ShownKey {
  std::string text;
  KeyRecord record;
};

std::int64_t system_unix_seconds();

// Any thread. Errors as Database has them, and those named below.
class KeyStore {
 public:
  // Makes the tables where they are missing. `database` outlives this.
  static Result<std::unique_ptr<KeyStore>> open(store::Database& database,
                                                std::function<std::int64_t()> unix_seconds = system_unix_seconds);

  // The wishes of `record`: id, prefix, hashes and created_at are set here.
  // invalid: a name, role, network, pattern or metadata that is not one, an expiry that has passed.
  Result<ShownKey> create(KeyRecord record);

  using Clock = std::chrono::steady_clock;

  // A new text for the key; the old one is valid for `overlap` longer, and one of an
  // earlier rotation no more. Of several at once one is done: cancelled, if another was
  // under way, in any process, or has ended here since `asked`. not_found; invalid: a key
  // that has expired.
  Result<ShownKey> rotate(std::string_view which, std::chrono::seconds overlap, Clock::time_point asked = Clock::now());
  Status set_blocked(std::string_view which, bool blocked);
  // Reads it, lets `edit` change its wishes and whether it is blocked, and writes it. not_found; invalid: as create();
  // cancelled: others keep changing it.
  Result<KeyRecord> edit(std::string_view which, const std::function<Status(KeyRecord&)>& edit);
  Status remove(std::string_view which);

  // `which`: an id, the beginning that is shown, the whole text (of before the last rotation, too), or a name that only
  // one has. not_found: none is; invalid: several are, with what tells them apart.
  Result<KeyRecord> find(std::string_view which);
  // In the order of their making.
  Result<std::vector<KeyRecord>> list();

  // Another number after every change, whichever process made it.
  Result<std::int64_t> generation();

 private:
  KeyStore(store::Database& database, std::function<std::int64_t()> unix_seconds)
      : database_(database), unix_seconds_(std::move(unix_seconds)) {}
  Result<std::vector<KeyRecord>> select(std::string_view where, const store::Values& args);
  Status change(std::string_view id, std::string sql, store::Values args);
  Result<ShownKey> rotate(KeyRecord record, std::chrono::seconds overlap);
  bool begin_rotation(const std::string& id, Clock::time_point asked);
  void end_rotation(const std::string& id, bool done);

  store::Database& database_;
  const std::function<std::int64_t()> unix_seconds_;
  std::mutex mutex_;
  std::map<std::string, std::optional<Clock::time_point>> rotations_;  // GUARDED_BY(mutex_); when it ended; null: runs
};

}  // namespace ashlar::gateway
