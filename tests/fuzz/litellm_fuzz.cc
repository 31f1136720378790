// A LiteLLM proxy's configuration: whatever is accepted becomes one of ours that reads well, whatever is refused says
// why.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "gateway/limits/rules.h"
#include "gateway/litellm/import_litellm.h"
#include "gateway/routing/read_routes.h"
#include "gateway/routing/router.h"
#include "gateway/upstreams/options.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ashlar::gateway;
  const auto made = import_litellm(std::string(reinterpret_cast<const char*>(data), size), "limits.yaml");
  if (!made) {
    if (made.error().message.empty()) std::abort();
    return 0;
  }
  for (const LitellmImport::Note& note : made->notes)
    if (note.line < 0 || note.why.empty()) std::abort();
  const auto routes = parse_routes(made->config, "made");
  if (!routes || !check_table(*routes)) std::abort();
  if (!parse_upstreams(made->config, "made")) std::abort();
  if (!made->limits.empty() && !read_limits(made->limits)) std::abort();
  return 0;
}
