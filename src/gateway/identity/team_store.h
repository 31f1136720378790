// Teams as they are kept: who belongs to one, which models it may use, whether it is refused.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gateway/identity/key_store.h"
#include "gateway/identity/principal.h"
#include "store/database.h"

namespace ashlar::gateway {

// A key or token that names a team which is not kept is as it was: the team is a name, for limits and for who pays.
struct TeamRecord {
  std::string name;    // the id of it, for good
  std::string tenant;  // that its keys have which name none; "": their own
  std::string description;
  std::vector<std::string> members;  // users: their keys and tokens that name no team are of this one
  std::vector<std::string> models;   // patterns, beside those of the key: both must allow; none: every model
  bool blocked = false;              // nobody of it is let in
  std::int64_t created_at = 0;
};

// Any thread. Errors as Database has them, and those named below.
class TeamStore {
 public:
  // Makes the tables where they are missing; those of keys too. `database` outlives this.
  static Result<std::unique_ptr<TeamStore>> open(store::Database& database,
                                                 std::function<std::int64_t()> unix_seconds = system_unix_seconds);

  // created_at is set here. invalid: a name, tenant or pattern that is not one, a member of another team, or there is
  // such a team.
  Result<TeamRecord> create(TeamRecord record);
  // Reads it, lets `edit` change it (but not its name) and writes it. not_found; invalid: as create().
  Result<TeamRecord> change(std::string_view name, const std::function<Status(TeamRecord&)>& edit);
  // Keys of it stay, and name a team that is not kept.
  Status remove(std::string_view name);
  Result<TeamRecord> find(std::string_view name);
  Result<std::vector<TeamRecord>> list();  // by name

 private:
  TeamStore(store::Database& database, std::function<std::int64_t()> unix_seconds)
      : database_(database), unix_seconds_(std::move(unix_seconds)) {}
  Status check(const TeamRecord& record);

  store::Database& database_;
  const std::function<std::int64_t()> unix_seconds_;
};

}  // namespace ashlar::gateway
