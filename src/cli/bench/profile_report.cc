#include <fmt/format.h>

#include "base/json_full.h"
#include "cli/bench/report.h"

namespace ashlar::cli {
namespace {

using models::Operation, models::Profile, models::Spent;

// For each operation that the passes had.
template <class F>
void for_each_operation(const Profile& profile, F&& each) {
  for (int i = 0; i < models::kOperations; ++i) {
    const auto operation = static_cast<Operation>(i);
    if (const Spent all = profile.total(operation); all.calls > 0) each(operation, all);
  }
}

int slowest_layer(const Profile& profile, Operation operation) {
  int slowest = 0;
  for (int layer = 1; layer < profile.layers(); ++layer)
    if (profile.at(operation, layer).seconds > profile.at(operation, slowest).seconds) slowest = layer;
  return slowest;
}

}  // namespace

std::string profile_text(std::string_view title, const Profiled& profiled) {
  const Profile& profile = profiled.profile;
  const double to_ms = 1e3 / profiled.passes;
  std::string text = fmt::format("  {}: {:.3f} ms a pass ({})\n    {:<16} {:>9} {:>9} {:>11} {:>14} {:>8} {:>9}\n",
                                 title, to_ms * profiled.seconds, profiled.passes, "operation", "ms a pass", "share",
                                 "ms a layer", "most (layer)", "GB/s", "T op/s");
  double known = 0;
  for_each_operation(profile, [&](Operation operation, const Spent& all) {
    known += all.seconds;
    const int slowest = slowest_layer(profile, operation);
    const double most = profile.at(operation, slowest).seconds;
    const double inside = all.seconds - profile.at(operation, profile.layers()).seconds;
    text += fmt::format("    {:<16} {:>9.3f} {:>7.1f} %", name_of(operation), to_ms * all.seconds,
                        100 * all.seconds / profiled.seconds);
    text += most > 0
                ? fmt::format(" {:>11.3f} {:>9.3f} ({:>2})", to_ms * inside / profile.layers(), to_ms * most, slowest)
                : std::string(27, ' ');
    if (all.cost.operations > 0)
      text += fmt::format(" {:>8.1f} {:>9.3f}", all.cost.bytes / all.seconds / 1e9,
                          all.cost.operations / all.seconds / 1e12);
    text += "\n";
  });
  return text + fmt::format("    {:<16} {:>9.3f} {:>7.1f} %\n", "between them", to_ms * (profiled.seconds - known),
                            100 * (profiled.seconds - known) / profiled.seconds);
}

Json to_json(const Profiled& profiled) {
  const Profile& profile = profiled.profile;
  Json operations = Json::object();
  for_each_operation(profile, [&](Operation operation, const Spent& all) {
    Json layers = Json::array();
    for (int layer = 0; layer < profile.layers(); ++layer) layers.push_back(profile.at(operation, layer).seconds);
    Json one = {{"seconds", all.seconds},
                {"share", all.seconds / profiled.seconds},
                {"calls", all.calls},
                {"layers", std::move(layers)},
                {"outside", profile.at(operation, profile.layers()).seconds}};
    if (all.cost.operations > 0) {
      one["bytes_per_second"] = all.cost.bytes / all.seconds;
      one["operations_per_second"] = all.cost.operations / all.seconds;
    }
    operations[std::string(name_of(operation))] = std::move(one);
  });
  return {{"seconds", profiled.seconds}, {"passes", profiled.passes}, {"operations", std::move(operations)}};
}

}  // namespace ashlar::cli
