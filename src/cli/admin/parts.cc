// What the admin API of `ashlar serve` works on.
#include "base/json_full.h"
#include "cli/admin/admin.h"
#include "cli/answerers.h"
#include "cli/kept_keys.h"
#include "cli/metering.h"
#include "cli/times.h"

namespace ashlar::cli {

AdminParts admin_parts(const KeptKeys& keys, gateway::KeptEvents& events, Answerers& answerers, Metering& metering) {
  AdminParts parts{.database = keys.database.get(),
                   .keys = keys.store.get(),
                   .ring = keys.ring.get(),
                   .teams = keys.teams.get(),
                   .budgets = metering.budgets().store(),
                   .events = &events,
                   .generator = &metering.generator(),
                   .rollouts = &answerers.rollouts(),
                   .shadows = &answerers.shadows()};
  parts.standings = [&metering] { return metering.standings(); };
  parts.budgets_changed = [&metering] {
    // Else it is tried again within a quarter of a second, and the log says why.
    (void)metering.budgets().reload();
  };
  parts.loaded = [&answerers] { return answerers.loaded(); };
  parts.unload = [&answerers](const std::string& model) { return answerers.unload(model); };
  parts.upstreams = [&answerers] { return answerers.upstreams(); };
  parts.routes = [&answerers] { return answerers.routes(); };
  parts.force = [&answerers](const std::string& name, gateway::Breaker::Mode mode) {
    return answerers.force(name, mode);
  };
  parts.status = [&keys, &metering, &answerers, began = gateway::system_unix_seconds()] {
    const auto load = metering.generator().load();
    std::vector<std::string> troubles = metering.troubles();
    if (keys.ring && !keys.ring->trouble().empty()) troubles.push_back(keys.ring->trouble());
    for (std::string& each : answerers.troubles()) troubles.push_back(std::move(each));
    return Json{{"version", ASHLAR_VERSION}, {"started_at", utc(began)},
                {"running", load.running},   {"waiting", load.waiting},
                {"healthy", load.healthy},   {"database", keys.database ? Json(keys.database->name()) : Json()},
                {"troubles", troubles}};
  };
  return parts;
}

}  // namespace ashlar::cli
