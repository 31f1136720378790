// Tables that change with the program: each room has its own list of steps, numbered
// from 1, which only ever grows at its end.
//
//   const store::Schema kKeys{.room = "keys", .steps = {
//       {"CREATE TABLE api_keys (id TEXT PRIMARY KEY, hash $BYTES NOT NULL, ...)"},   // 1
//       {"ALTER TABLE api_keys ADD COLUMN note TEXT"}}};                              // 2
//
// What a database has seen stands in its table ashlar_schema (room, version, applied_at).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "store/database.h"

namespace ashlar::store {

// SQL of one step, run in one transaction. The twins' words differ for two things:
//   $BYTES      BLOB | BYTEA
//   $IDENTITY   a BIGINT primary key that counts up by itself
using SchemaStep = std::vector<std::string>;

struct Schema {
  std::string room;
  std::vector<SchemaStep> steps;  // the first is version 1
};

// Brings the database to each schema's last version, a step at a time, each whole or
// not at all. Any number of programs may do it at once. Before the first step that
// changes tables which an SQLite file has already, a copy of the file is put beside it:
// FILE.before-ROOM-VERSION-UTC.
// unsupported: a newer program has been here; as Database.
Status migrate(Database& database, std::span<const Schema> schemas);

struct SchemaVersion {
  std::string room;
  std::int64_t version = 0;
};
// What the database says of itself; nothing: it is new.
Result<std::vector<SchemaVersion>> schema_versions(Database& database);

// "20261121T191500.250Z": now, for the names of copies.
std::string stamp_of_now();

}  // namespace ashlar::store
