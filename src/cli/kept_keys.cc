#include "cli/kept_keys.h"

#include <filesystem>

#include "base/log.h"

namespace ashlar::cli {

Result<KeptKeys> open_keys(const store::StateOptions& options) {
  KeptKeys out;
  const std::string where = TRY(store::state_location(options));
  out.database = TRY(store::open_database(where));
  out.store = TRY(gateway::KeyStore::open(*out.database));
  out.teams = TRY(gateway::TeamStore::open(*out.database));
  return out;
}

Result<KeptKeys> open_keys_to_serve(const store::StateOptions& options) {
  auto out = open_keys(options);
  if (!out) {
    const auto where = store::state_location(options);
    std::error_code failed;
    const bool named = !options.data_dir.empty() || !options.database.empty();
    if (named || (where && std::filesystem::exists(*where, failed)))
      return Error{out.error().code, out.error().message + "\nNothing is served: keys and budgets are not known."};
    log::warn("state_not_kept", {{"why", out.error().message}});
    return KeptKeys{};
  }
  out->ring = TRY(gateway::KeyRing::open(*out->store, gateway::system_unix_seconds, out->teams.get()));
  return out;
}

}  // namespace ashlar::cli
