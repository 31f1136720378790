#include "cli/kept_keys.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <utility>

#include "base/log.h"
#include "gateway/events/kept_events.h"

namespace ashlar::cli {

void tell_locally(store::Database& database, gateway::OperatorEvent event) {
  std::array<char, 4096> room;
  passwd entry{}, *found = nullptr;
  const bool named = getpwuid_r(getuid(), &entry, room.data(), room.size(), &found) == 0 && found != nullptr;
  event.actor = named ? fmt::format("local:{}", entry.pw_name) : fmt::format("local:{}", getuid());
  const auto events = gateway::KeptEvents::open(&database, {.logged = false});
  if (!events) return log::warn("event_not_kept", {{"kind", event.kind}, {"why", events.error().message}});
  (*events)->write(std::move(event));
  (*events)->sync();
}

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
