// Database on a file of this machine.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "store/database.h"

namespace ashlar::store {

// As open_database().
Result<std::unique_ptr<Database>> open_sqlite(const std::string& path, const DatabaseOptions& options);

// Held shared by whoever has the file open, alone by who puts another in its place.
std::string lock_of(const std::string& database_file);

}  // namespace ashlar::store
