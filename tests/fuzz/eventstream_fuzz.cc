// What upstreams send: AWS's binary events, and every kind's answers. The first byte says which reader gets the rest,
// the second how the bytes are cut.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/json_full.h"
#include "gateway/upstreams/eventstream.h"
#include "gateway/upstreams/wire.h"

using namespace ashlar;

namespace {

void read_events(std::string_view bytes, std::size_t cut) {
  gateway::EventStreamReader reader;
  std::size_t payloads = 0;
  const std::size_t all = bytes.size();
  while (!bytes.empty()) {
    const auto piece = bytes.substr(0, cut);
    bytes.remove_prefix(piece.size());
    if (!reader.read(piece, [&](gateway::StreamMessage&& message) { payloads += message.payload.size(); })) break;
  }
  if (payloads > all) std::abort();
}

// Every event is for a choice that was asked for, and nothing follows the last.
void read_answer(const gateway::Wire& wire, const net::Headers& headers, std::string_view bytes, std::size_t cut) {
  engine::Request request{.model = "m", .n = 2};
  request.stopping.max_tokens = 100;
  request.prompt.input = std::string("x");
  gateway::Teller teller("up", request);
  const auto reader = wire.reader(request, headers, teller);
  bool over = false;
  const auto check = [&] {
    for (const auto& event : teller.take()) {
      if (over) std::abort();
      over = std::holds_alternative<engine::Finished>(event);
      const auto choice = [](const auto& each) {
        if constexpr (requires { each.choice; })
          return each.choice;
        else
          return 0;
      };
      if (const int index = std::visit(choice, event); index < 0 || index > 1) std::abort();
    }
  };
  while (!bytes.empty() && !teller.failure() && !teller.over()) {
    const auto piece = bytes.substr(0, cut);
    bytes.remove_prefix(piece.size());
    reader->read(piece);
    check();
  }
  if (!teller.failure() && !teller.over()) reader->end();
  check();
  if (over == (teller.failure() != nullptr)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  static const auto kinds = gateway::upstream_kinds();
  const std::string_view rest(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::size_t cut = data[1] % 64 == 0 ? rest.size() + 1 : data[1] % 64;
  const std::size_t which = data[0] % 32;
  if (which == 0) {
    read_events(rest, cut);
    return 0;
  }
  if (which == 31) {
    const auto failure = gateway::failure_of_answer("up", 100 + data[1] * 2, {{"retry-after", "1"}}, rest);
    if (failure.failed.error.message.empty()) std::abort();
    return 0;
  }
  const std::string& kind = kinds[which % kinds.size()];
  const bool stream = which >= 8;
  const auto wire = gateway::make_wire({.name = "up", .kind = kind, .url = "http://127.0.0.1"}, {});
  const char* type = kind == "bedrock"  ? "application/vnd.amazon.eventstream"
                     : kind == "ollama" ? "application/x-ndjson"
                                        : "text/event-stream";
  read_answer(*wire, {{"content-type", stream ? type : "application/json"}}, rest, cut);
  (void)wire->read_list(rest);
  (void)wire->read_vectors(rest, 2);
  return 0;
}
