// Bytes on their way out, and what counts how many of them the kernel has.
#include "net/outbox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "net/http_server.h"
#include "net/test_peer.h"

namespace ashlar::net {
namespace {

using Count = std::shared_ptr<std::atomic<std::uint64_t>>;
using Held = std::shared_ptr<Exchange>;

Count count() { return std::make_shared<std::atomic<std::uint64_t>>(0); }

TEST(Outbox, AMarkCountsFromTheMomentThatItsLastByteIsHandedOver) {
  Outbox out;
  const Count a = count();
  out.append("12345");
  out.mark({{a, 1}});
  out.append("678");
  out.mark({{a, 2}});
  out.announce(5);
  EXPECT_EQ(*a, 1u) << "before the kernel has it";
  out.consume(4);
  EXPECT_EQ(*a, 0u) << "it did not take the last byte";
  out.announce(4);
  EXPECT_EQ(*a, 2u);
  out.consume(0);
  EXPECT_EQ(*a, 0u);
  out.announce(4);
  out.consume(1);
  EXPECT_EQ(*a, 1u);
  out.announce(3);
  out.consume(3);
  EXPECT_EQ(*a, 2u);
  EXPECT_EQ(a.use_count(), 1) << "and is let go";
}

TEST(Outbox, MarksGoWhereTheirBytesGo) {
  Outbox plain, sealed;
  const Count a = count(), b = count();
  plain.append("123");
  plain.mark({{a, 7}, {b, 8}});
  plain.append("4");
  Marks moved;
  plain.pass(2, moved);
  EXPECT_TRUE(moved.empty());
  plain.pass(2, moved);
  ASSERT_EQ(moved.size(), 2u);
  EXPECT_EQ(*a + *b, 0u);
  sealed.append("xxxxxxxx");
  sealed.mark(std::move(moved));
  sealed.announce(8);
  sealed.consume(8);
  EXPECT_EQ(*a, 7u);
  EXPECT_EQ(*b, 8u);
  sealed.mark({{a, 9}});
  EXPECT_EQ(*a, 9u) << "what it stands behind is gone";
}

TEST(Outbox, MarksThatNeverLeaveAreNeverCounted) {
  const Count a = count();
  {
    Outbox out;
    out.append("123");
    out.mark({{a, 1}});
  }
  EXPECT_EQ(*a, 0u);
  EXPECT_EQ(a.use_count(), 1);
}

TEST(HttpServer, CountsWhatTheKernelTookAndNotWhatWaitsHere) {
  Inbox<Held> inbox;
  ServerOptions options;
  options.max_unsent = Bytes{64 << 20};
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); }, options);
  Peer peer(server->port());
  peer.send("GET /a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
  Held exchange = inbox.take();
  const Count sent = count();
  exchange->begin(200, {});
  constexpr std::uint64_t kPieces = 400;
  for (std::uint64_t i = 1; i <= kPieces; ++i) exchange->write_marked(std::string(64 << 10, 'x'), {{sent, i}});
  // Nobody reads: the kernel's buffers fill, and there it stands.
  peer.read_until("x");
  const std::uint64_t before = *sent;
  EXPECT_LT(before, kPieces);
  exchange->end();
  exchange.reset();
  EXPECT_GT(peer.read_all().size(), kPieces << 15);
  EXPECT_EQ(*sent, kPieces);
}

TEST(HttpServer, CountsAWholeAnswer) {
  const Count sent = count();
  const auto server = serve([&](const Held& exchange) { exchange->respond_marked(200, {}, "all of it", {{sent, 3}}); });
  Peer peer(server->port());
  peer.send("GET /a HTTP/1.1\r\nhost: h\r\n\r\n");
  EXPECT_EQ(peer.read_reply().body, "all of it");
  EXPECT_EQ(*sent, 3u);
}

}  // namespace
}  // namespace ashlar::net
