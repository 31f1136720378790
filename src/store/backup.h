// Copies of the state, and their way back.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "store/database.h"
#include "store/migrations.h"

namespace ashlar::store {

struct BackupDone {
  std::string file;
  std::int64_t bytes = 0;
  std::vector<SchemaVersion> versions;  // what is in it
};

// A checked copy of the database at `where` (as open_database() takes it) as it is now;
// programs may write to it meanwhile. not_found: no such database; invalid: `file` is
// there already; io, corrupt; unsupported: PostgreSQL.
Result<BackupDone> backup_state(const std::string& where, const std::string& file);

struct RestoreDone {
  std::string kept;  // the database that was there before; "": none
  std::vector<SchemaVersion> versions;
};

// Puts a backup in the place of the database: copied and checked first, so that an
// error leaves everything as it was. The old file is kept beside the new one as
// FILE.before-restore-UTC, with its -wal if it could not be read.
// corrupt: the backup is damaged or no state of Ashlar; not_found; unavailable: a
// program has the database open; unsupported: PostgreSQL; io.
Result<RestoreDone> restore_state(const std::string& where, const std::string& file);

}  // namespace ashlar::store
