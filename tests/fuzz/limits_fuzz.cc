// Configurations of limits: whatever is accepted holds together, and whatever is refused says why.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "gateway/limits/rules.h"
#include "store/counters.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ashlar;
  using namespace ashlar::gateway;
  const auto config = read_limits(std::string(reinterpret_cast<const char*>(data), size));
  if (!config) {
    if (config.error().message.empty()) std::abort();
    return 0;
  }
  for (const Rule& rule : config->rules)
    if (!check_rule(rule)) std::abort();
  const Subject somebody{.key = "k", .user = "ann", .team = "search", .tenant = "t", .tags = {{"tier", "free"}}};
  for (const Subject& subject : {Subject(), somebody}) {
    for (const Applied& applied : rules_for(*config, subject, "m")) {
      if (applied.rule == nullptr || applied.who.empty()) std::abort();
      if (!store::check_limit(applied.limit)) std::abort();
    }
    if (const auto cap = output_cap(*config, subject, "m"); cap && *cap < 0) std::abort();
    if (const Price* price = config->prices.find("m", 1'700'000'000'000))
      if (cost_of(*price, {.prompt = 1'000'000'000, .completion = 1'000'000'000}) < 0) std::abort();
  }
  return 0;
}
