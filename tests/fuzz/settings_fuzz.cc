// Files of settings, as identity and as upstreams: every fault is told with its line, and what is accepted can be used.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "base/result.h"
#include "gateway/identity/identity.h"
#include "gateway/identity/principal.h"
#include "gateway/upstreams/options.h"
#include "gateway/upstreams/wire.h"
#include "net/url.h"

namespace {

using namespace ashlar;
using namespace ashlar::gateway;

void check_faults(const Error& error) {
  CHECK(!error.message.empty(), "a refusal says why");
  for (std::string_view rest = error.message; !rest.empty();) {
    const auto end = std::min(rest.find('\n'), rest.size());
    CHECK(rest.starts_with("f.yaml:"), "a fault names its file");
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
}

void decide(const IdentityConfig& config) {
  const Principal ann{.user = "ann", .team = "search", .tenant = "t", .roles = {Role::app}, .tags = {{"tier", "free"}}};
  for (const Scope scope : {Scope::use, Scope::admin})
    for (const std::int64_t now : {std::int64_t{0}, std::int64_t{1'700'000'000}, std::int64_t{253'402'300'799}}) {
      const auto decision = config.policy.decide(
          ann, {.scope = scope, .models = {"m"}, .data_classes = {"sensitive"}, .unix_seconds = now});
      CHECK(decision.allowed || !decision.why.empty(), "who is refused is told why");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (const auto identity = parse_identity_config(text, "f.yaml"))
    decide(*identity);
  else
    check_faults(identity.error());
  const auto upstreams = parse_upstreams(text, "f.yaml");
  if (!upstreams) {
    check_faults(upstreams.error());
    return 0;
  }
  std::set<std::string> names;
  for (const UpstreamOptions& each : *upstreams) {
    CHECK(names.insert(each.name).second, "each has a name of its own");
    CHECK(net::parse_url(each.url.empty() ? default_url(each) : each.url), "each has an address");
  }
  return 0;
}
