#include "store/database.h"

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "store/model_store.h"
#include "store/postgres_database.h"
#include "store/sqlite_database.h"

namespace ashlar::store {
namespace {

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::int64_t as_int(const Value& value) {
  const auto* v = std::get_if<std::int64_t>(&value);
  return v == nullptr ? 0 : *v;
}

double as_double(const Value& value) {
  if (const auto* whole = std::get_if<std::int64_t>(&value)) return static_cast<double>(*whole);
  const auto* v = std::get_if<double>(&value);
  return v == nullptr ? 0 : *v;
}

const std::string& as_text(const Value& value) {
  static const std::string none;
  const auto* v = std::get_if<std::string>(&value);
  return v == nullptr ? none : *v;
}

const std::string& as_bytes(const Value& value) {
  static const std::string none;
  const auto* v = std::get_if<Blob>(&value);
  return v == nullptr ? none : v->bytes;
}

Status check_location(const std::string& where) {
  if (!is_postgres(where) && where.find("://") != std::string::npos)
    return Error{Code::invalid, "a database is the path of a file, or postgres://USER:PASSWORD@HOST:PORT/NAME"};
  return {};
}

Result<std::unique_ptr<Database>> open_database(const std::string& where, const DatabaseOptions& options) {
  if (is_postgres(where)) return open_postgres(where, options);
  TRY(check_location(where));
  std::error_code failed;
  const std::string path = std::filesystem::absolute(where, failed).lexically_normal().string();
  return open_sqlite(failed ? where : path, options);
}

StateOptions state_options_from_environment() {
  return {.data_dir = environment("ASHLAR_DATA_DIR"), .database = environment("ASHLAR_DATABASE")};
}

Result<std::string> state_folder(const StateOptions& options) {
  std::string folder = options.data_dir.empty() ? default_store_folder() : options.data_dir;
  if (folder.empty()) return Error{Code::invalid, "no folder for state is known: set --data-dir or ASHLAR_DATA_DIR"};
  return folder;
}

Result<std::string> state_location(const StateOptions& options) {
  if (!options.database.empty()) return options.database;
  return TRY(state_folder(options)) + "/state.db";
}

}  // namespace ashlar::store
