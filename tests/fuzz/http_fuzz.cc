// HTTP as strangers send it: HTTP/1.1 and HTTP/2 connections, and the client's
// reading of responses, event streams and URLs. The first byte chooses which, and
// the second how the bytes are cut.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "net/exchange.h"
#include "net/http1_response.h"
#include "net/protocol.h"
#include "net/sse.h"
#include "net/url.h"

namespace {

using namespace ashlar;
using namespace ashlar::net;

struct Door final : AnswerDoor {
  void send(AnswerPart part) override { parts.push_back(std::move(part)); }
  void run(std::function<void()> task) override { task(); }
  std::vector<AnswerPart> parts;
};

// Calls `feed` with pieces whose sizes follow from `seed`.
template <class Feed>
void cut(std::string_view bytes, std::uint8_t seed, Feed feed) {
  std::uint32_t state = seed;
  while (!bytes.empty()) {
    state = state * 1664525 + 1013904223;
    const std::size_t size = seed == 0 ? bytes.size() : std::min<std::size_t>(bytes.size(), 1 + (state >> 16) % seed);
    if (!feed(bytes.substr(0, size))) return;
    bytes.remove_prefix(size);
  }
}

void serve(std::string_view bytes, std::uint8_t seed, bool http2) {
  ServerOptions options;
  options.max_body = {4096};
  options.max_header = {2048};
  options.max_unsent = {8192};
  std::vector<std::shared_ptr<Exchange>> held;
  const auto door = std::make_shared<Door>();
  // Answers differ by path, so that the fuzzer finds them all.
  const Handler handler = [&](const std::shared_ptr<Exchange>& exchange) {
    const HttpRequest& request = exchange->request();
    CHECK(request.body.size() <= options.max_body.count, "a body over the limit was handed over");
    CHECK(!request.method.empty() && !request.path.empty(), "a request without method or path");
    CHECK(request.path.find('\0') == std::string::npos, "a NUL in the path");
    for (const auto& [name, value] : request.headers)
      CHECK(!name.empty() && (name + value).find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos,
            "a line break in a header");
    exchange->on_gone([] {});
    switch (request.path.size() % 4) {
      case 0:
        return;
      case 1:
        return exchange->respond(200, {{"x", "y"}}, request.body);
      case 2:
        exchange->begin(200, {});
        exchange->write(std::string(3000, 'x'));
        exchange->write("piece");
        return exchange->end();
      default:
        exchange->begin(200, {});
        held.push_back(exchange);
    }
  };
  BodyBudget bodies({6000});
  Outbox out;
  ProtocolHome home{.options = options, .handler = handler, .bodies = bodies, .door = door, .peer = "fuzz", .out = out};
  {
    const auto protocol = http2 ? make_http2(home) : make_http1(home);
    const auto settle = [&] {
      for (int turn = 0; turn < 100; ++turn) {
        std::vector<AnswerPart> parts;
        parts.swap(door->parts);
        for (AnswerPart& part : parts) protocol->answer(std::move(part));
        protocol->fill(64 << 10);
        if (out.empty() && door->parts.empty()) return;
        out.consume(out.size());
      }
    };
    if (http2) protocol->receive(kHttp2Preface);
    cut(bytes, seed, [&](std::string_view piece) {
      if (protocol->wants_input()) protocol->receive(piece);
      settle();
      if (!held.empty() && seed % 3 == 1) {
        held.back()->write("more");
        held.back()->end();
        held.pop_back();
        settle();
      }
      return protocol->fate() == Protocol::Fate::open;
    });
    if (seed % 5 == 0) protocol->expire(Clock::now() + std::chrono::hours(1));
    if (seed % 5 == 1) protocol->receive_end();
    if (seed % 5 == 2) protocol->drain();
    settle();
    protocol->lost();
  }
  held.clear();
}

void read_response(std::string_view bytes, std::uint8_t seed) {
  ResponseReader reader(seed % 7 == 0 ? "HEAD" : "GET", {2048}, {4096});
  std::size_t total = 0;
  int heads = 0;
  const ResponseReader::Events events{.head = [&](ResponseHead&&) { ++heads; },
                                      .content = [&](std::string_view piece) { total += piece.size(); }};
  cut(bytes, seed, [&](std::string_view piece) { return reader.read(piece, events) && !reader.done(); });
  if (!reader.done()) (void)reader.read_end();
  CHECK(heads <= 1 && total <= 4096, "a response beyond its limits");
}

void read_events(std::string_view bytes, std::uint8_t seed) {
  SseReader reader(1000);
  cut(bytes, seed, [&](std::string_view piece) {
    return reader
        .read(piece, [](const SseEvent& event) { CHECK(event.data.size() <= 1000, "an event beyond its limit"); })
        .has_value();
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  switch (data[0] % 5) {
    case 0:
      serve(bytes, data[1], false);
      break;
    case 1:
      serve(bytes, data[1], true);
      break;
    case 2:
      read_response(bytes, data[1]);
      break;
    case 3:
      read_events(bytes, data[1]);
      break;
    default:
      (void)ashlar::net::parse_url(bytes);
  }
  return 0;
}
