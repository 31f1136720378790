// Database on a PostgreSQL server.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "store/database.h"

namespace ashlar::store {

// "postgres://..." or "postgresql://...": as open_database().
bool is_postgres(const std::string& where);
Result<std::unique_ptr<Database>> open_postgres(const std::string& url, const DatabaseOptions& options);

}  // namespace ashlar::store
