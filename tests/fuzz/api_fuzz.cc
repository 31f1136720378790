// Request bodies through the whole room: whatever is sent, one whole answer
// comes, of JSON or of events, and never a 500.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "api/fakes_for_test.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static ashlar::api::World world;
  if (size == 0) return 0;
  // "A" to "E"
  constexpr const char* kPaths[] = {"/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize",
                                    "/apply-template"};
  std::string body(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto answer = world.ask("POST", kPaths[data[0] % std::size(kPaths)], std::move(body));
  if (answer->status() >= 500) std::abort();
  if (answer->header("content-type") == "application/json") {
    (void)answer->json();
  } else {
    for (const auto& event : answer->events())
      if (event != "[DONE]") (void)ashlar::Json::parse(event);
  }
  return 0;
}
