// The API keys and teams of this machine's state, opened: for `ashlar key`, and for a server.
#pragma once

#include <memory>

#include "base/result.h"
#include "gateway/events/event_log.h"
#include "gateway/identity/key_ring.h"
#include "gateway/identity/key_store.h"
#include "gateway/identity/team_store.h"
#include "store/database.h"

namespace ashlar::cli {

struct KeptKeys {
  std::unique_ptr<store::Database> database;
  std::unique_ptr<gateway::KeyStore> store;
  std::unique_ptr<gateway::TeamStore> teams;
  std::unique_ptr<gateway::KeyRing> ring;  // null until with_ring
};

// As open_database(), KeyStore::open() and TeamStore::open().
// Writes what a command has changed into the event log that the servers of this database keep too. By whom is said by
// the name that this machine has for who runs it: "local:ann". A failure is told to stderr, for the change is made.
void tell_locally(store::Database& database, gateway::OperatorEvent event);

Result<KeptKeys> open_keys(const store::StateOptions& options);

// The same for a server, with its ring. Where nobody named a place and the usual
// one cannot be made (a read-only system), there are no keys: all is null.
Result<KeptKeys> open_keys_to_serve(const store::StateOptions& options);

}  // namespace ashlar::cli
