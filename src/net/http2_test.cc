// HTTP/2 through a real socket, with nghttp2's client side as the other end, and
// hand-made frames for what no decent client would send.
#include <gtest/gtest.h>
#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <map>
#include <thread>

#include "net/test_peer.h"

namespace ashlar::net {
namespace {

using std::chrono::milliseconds;
using Held = std::shared_ptr<Exchange>;

struct Outcome {
  int status = 0;
  std::string body;
  bool closed = false;
  std::uint32_t error = 0;
};

// Speaks HTTP/2 over a Peer, on the test's thread.
class Client {
 public:
  explicit Client(int port, bool reads_data = true) : peer_(port) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name, std::size_t name_size,
                      const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
          if (std::string_view(reinterpret_cast<const char*>(name), name_size) == ":status")
            static_cast<Client*>(user)->streams[frame->hd.stream_id].status =
                std::stoi(std::string(reinterpret_cast<const char*>(value), value_size));
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks,
        [](nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data, std::size_t size, void* user) {
          static_cast<Client*>(user)->streams[id].body.append(reinterpret_cast<const char*>(data), size);
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(
        callbacks, [](nghttp2_session*, std::int32_t id, std::uint32_t error, void* user) {
          auto& stream = static_cast<Client*>(user)->streams[id];
          stream.closed = true;
          stream.error = error;
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_recv_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, void* user) {
          if (frame->hd.type == NGHTTP2_GOAWAY)
            static_cast<Client*>(user)->goaway = static_cast<int>(frame->goaway.error_code);
          return 0;
        });
    nghttp2_option* options = nullptr;
    nghttp2_option_new(&options);
    nghttp2_option_set_no_auto_window_update(options, reads_data ? 0 : 1);
    nghttp2_session_client_new2(&session_, callbacks, this, options);
    nghttp2_option_del(options);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, nullptr, 0);
  }
  ~Client() { nghttp2_session_del(session_); }

  std::int32_t request(std::string method, std::string path, const std::string* body = nullptr, Headers more = {}) {
    Headers all{{":method", std::move(method)}, {":scheme", "http"}, {":authority", "h"}, {":path", std::move(path)}};
    all.insert(all.end(), more.begin(), more.end());
    std::vector<nghttp2_nv> pairs;
    for (auto& [name, value] : all)
      pairs.push_back({reinterpret_cast<std::uint8_t*>(name.data()), reinterpret_cast<std::uint8_t*>(value.data()),
                       name.size(), value.size(), 0});
    nghttp2_data_provider provider{};
    struct Source {
      const std::string* body;
      std::size_t at = 0;
    };
    if (body) sources_.push_back(std::make_shared<Source>(Source{body}));
    provider.source.ptr = body ? sources_.back().get() : nullptr;
    provider.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t* out, std::size_t size,
                                std::uint32_t* flags, nghttp2_data_source* source, void*) -> ssize_t {
      auto& from = *static_cast<Source*>(source->ptr);
      const std::size_t n = std::min(size, from.body->size() - from.at);
      std::copy_n(from.body->data() + from.at, n, out);
      from.at += n;
      if (from.at == from.body->size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
      return static_cast<ssize_t>(n);
    };
    const std::int32_t id =
        nghttp2_submit_request(session_, nullptr, pairs.data(), pairs.size(), body ? &provider : nullptr, nullptr);
    flush();
    return id;
  }

  // Reads and writes until `done` or the server closes.
  bool until(const std::function<bool()>& done) {
    while (!done()) {
      flush();
      if (done()) break;
      const std::string bytes = peer_.receive();
      if (bytes.empty()) {
        ended = true;
        return done();
      }
      if (nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()) < 0)
        return false;
    }
    flush();
    return true;
  }
  Outcome wait(std::int32_t id) {
    until([&] { return streams[id].closed; });
    return streams[id];
  }

  void flush() {
    const std::uint8_t* bytes = nullptr;
    while (true) {
      const ssize_t size = nghttp2_session_mem_send(session_, &bytes);
      if (size <= 0) return;
      peer_.send({reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size)});
    }
  }

  Peer& peer() { return peer_; }
  nghttp2_session* session() { return session_; }

  std::map<std::int32_t, Outcome> streams;
  int goaway = -1;
  bool ended = false;

 private:
  Peer peer_;
  nghttp2_session* session_ = nullptr;
  std::vector<std::shared_ptr<void>> sources_;
};

TEST(Http2, AnswersManyStreamsOnOneConnection) {
  const auto server = serve([](const Held& exchange) {
    EXPECT_EQ(exchange->request().version, 20);
    EXPECT_EQ(find_header(exchange->request().headers, "host"), "h");
    echo(exchange);
  });
  Client client(server->port());
  std::vector<std::int32_t> ids;
  const std::string body = "body";
  for (int i = 0; i < 50; ++i) ids.push_back(client.request("POST", "/x%20" + std::to_string(i) + "?q", &body));
  for (int i = 0; i < 50; ++i) {
    const Outcome outcome = client.wait(ids[static_cast<std::size_t>(i)]);
    EXPECT_EQ(outcome.status, 200);
    EXPECT_EQ(outcome.body, "POST /x " + std::to_string(i) + "?q body");
  }
}

TEST(Http2, CarriesLargeBodiesBothWays) {
  const auto server = serve([](const Held& exchange) { exchange->respond(200, {}, exchange->request().body); });
  Client client(server->port());
  std::string body(3 << 20, 'a');
  for (std::size_t i = 0; i < body.size(); i += 1000) body[i] = static_cast<char>('a' + i / 1000 % 26);
  const std::int32_t one = client.request("POST", "/", &body), two = client.request("POST", "/", &body);
  EXPECT_EQ(client.wait(one).body, body);
  EXPECT_EQ(client.wait(two).body, body);
}

TEST(Http2, StreamsPiecesAndEnds) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Client client(server->port());
  const std::int32_t id = client.request("GET", "/");
  const Held exchange = inbox.take();
  exchange->begin(200, {{"Content-Type", "text/event-stream"}});
  exchange->write("one");
  ASSERT_TRUE(client.until([&] { return client.streams[id].body == "one"; }));
  exchange->write("two");
  ASSERT_TRUE(client.until([&] { return client.streams[id].body == "onetwo"; }));
  EXPECT_FALSE(client.streams[id].closed);
  exchange->end();
  EXPECT_EQ(client.wait(id).error, 0u);
}

TEST(Http2, AnswersHeadAndEmptyBodies) {
  const auto server =
      serve([](const Held& exchange) { exchange->respond(exchange->request().path == "/e" ? 204 : 200, {}, "body"); });
  Client client(server->port());
  EXPECT_EQ(client.wait(client.request("HEAD", "/")).body, "");
  const Outcome empty = client.wait(client.request("GET", "/e"));
  EXPECT_EQ(empty.status, 204);
  EXPECT_EQ(empty.body, "");
}

TEST(Http2, TellsWhenAStreamIsReset) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Client client(server->port());
  const std::int32_t id = client.request("GET", "/one");
  const Held one = inbox.take();
  const std::int32_t other = client.request("GET", "/two");
  const Held two = inbox.take();
  one->begin(200, {});
  one->on_gone([&] { gone.put(1); });
  two->on_gone([&] { gone.put(2); });
  nghttp2_submit_rst_stream(client.session(), NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
  client.flush();
  EXPECT_EQ(gone.take(), 1);
  one->write("to nobody");
  echo(two);  // the other goes on
  EXPECT_EQ(client.wait(other).status, 200);
  EXPECT_TRUE(gone.empty());
}

TEST(Http2, TellsEveryStreamWhenTheConnectionIsLost) {
  Inbox<Held> inbox;
  Inbox<int> gone;
  const auto server = serve([&](Held exchange) {
    exchange->on_gone([&] { gone.put(1); });
    inbox.put(std::move(exchange));
  });
  Client client(server->port());
  std::vector<Held> held;
  for (int i = 0; i < 5; ++i) {
    client.request("GET", "/");
    held.push_back(inbox.take());
  }
  client.peer().close();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(gone.take(), 1);
}

TEST(Http2, ResetsOnlyTheStreamThatIsNotRead) {
  ServerOptions options;
  options.write_timeout = milliseconds(100);
  Inbox<Held> inbox;
  Inbox<int> gone;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); }, options);
  Client client(server->port(), false);
  const std::int32_t id = client.request("GET", "/");
  const Held exchange = inbox.take();
  exchange->on_gone([&] { gone.put(1); });
  exchange->begin(200, {});
  exchange->write(std::string(1 << 20, 'x'));  // its window is 64 KiB
  EXPECT_EQ(client.wait(id).error, static_cast<std::uint32_t>(NGHTTP2_CANCEL));
  EXPECT_EQ(gone.take(), 1);
  EXPECT_EQ(client.goaway, -1);
}

TEST(Http2, ResetsAStreamForWhichTooMuchPilesUp) {
  ServerOptions options;
  options.max_unsent = 128_KiB;
  Inbox<Held> inbox;
  Inbox<int> gone;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); }, options);
  Client client(server->port(), false);
  const std::int32_t id = client.request("GET", "/");
  const Held exchange = inbox.take();
  exchange->on_gone([&] { gone.put(1); });
  exchange->begin(200, {});
  for (int i = 0; i < 40; ++i) exchange->write(std::string(8 << 10, 'x'));
  EXPECT_EQ(gone.take(), 1);
  EXPECT_EQ(client.wait(id).error, static_cast<std::uint32_t>(NGHTTP2_ENHANCE_YOUR_CALM));
}

TEST(Http2, HoldsTheLimitsOfSize) {
  ServerOptions options;
  options.max_body = 1_KiB;
  options.max_header = 2_KiB;
  const auto server = serve(echo, options);
  Client client(server->port());
  const std::string large(100'000, 'x');
  EXPECT_EQ(client.wait(client.request("POST", "/", &large)).status, 413);
  EXPECT_EQ(client.wait(client.request("POST", "/", &large, {{"content-length", "100000"}})).status, 413);
  EXPECT_EQ(client.wait(client.request("GET", "/", nullptr, {{"x", std::string(3000, 'y')}})).status, 431);
  EXPECT_EQ(client.wait(client.request("GET", "/%zz")).status, 400);
  EXPECT_EQ(client.wait(client.request("GET", "/fine")).status, 200);
}

TEST(Http2, TimesOutASlowBody) {
  ServerOptions options;
  options.body_timeout = milliseconds(100);
  const auto server = serve(echo, options);
  Client client(server->port());
  const std::string never;  // the provider is asked once and then deferred for ever
  Headers all{{":method", "POST"}, {":scheme", "http"}, {":authority", "h"}, {":path", "/"}};
  std::vector<nghttp2_nv> pairs;
  for (auto& [name, value] : all)
    pairs.push_back({reinterpret_cast<std::uint8_t*>(name.data()), reinterpret_cast<std::uint8_t*>(value.data()),
                     name.size(), value.size(), 0});
  nghttp2_data_provider provider{};
  provider.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t, std::uint32_t*,
                              nghttp2_data_source*, void*) -> ssize_t { return NGHTTP2_ERR_DEFERRED; };
  const std::int32_t id =
      nghttp2_submit_request(client.session(), nullptr, pairs.data(), pairs.size(), &provider, nullptr);
  ASSERT_TRUE(client.until([&] { return client.streams[id].status == 408; }));
}

TEST(Http2, BoundsTheStreamsOfAConnection) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Client client(server->port());
  client.until([&] {
    return nghttp2_session_get_remote_settings(client.session(), NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) == 256;
  });
  for (int i = 0; i < 300; ++i) client.request("GET", "/");
  std::vector<Held> held;
  for (int i = 0; i < 256; ++i) held.push_back(inbox.take());
  EXPECT_TRUE(inbox.empty());
  for (const Held& exchange : held) echo(exchange);
  held.clear();
  std::thread rest([&] {
    for (int i = 256; i < 300; ++i) echo(inbox.take());
  });
  EXPECT_TRUE(client.until([&] {
    return client.streams.size() == 300 &&
           std::ranges::all_of(client.streams, [](const auto& s) { return s.second.closed; });
  }));
  rest.join();
}

TEST(Http2, ClosesAnIdleConnection) {
  ServerOptions options;
  options.idle_timeout = milliseconds(100);
  const auto server = serve(echo, options);
  Client client(server->port());
  EXPECT_EQ(client.wait(client.request("GET", "/")).status, 200);
  client.until([&] { return client.ended; });
  EXPECT_EQ(client.goaway, NGHTTP2_NO_ERROR);
}

TEST(Http2, DrainsWithGoaway) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Client client(server->port());
  const std::int32_t id = client.request("GET", "/");
  const Held exchange = inbox.take();
  EXPECT_FALSE(server->drain(milliseconds(10)));
  ASSERT_TRUE(client.until([&] { return client.goaway >= 0; }));
  EXPECT_EQ(client.goaway, NGHTTP2_NO_ERROR);
  std::thread finisher([&] { echo(exchange); });
  EXPECT_TRUE(server->drain(std::chrono::seconds(10)));
  finisher.join();
  EXPECT_EQ(client.wait(id).status, 200);
}

// --- floods, as hand-made frames

std::string frame(int type, int flags, std::uint32_t stream, std::string_view payload) {
  std::string out;
  for (const int shift : {16, 8, 0}) out.push_back(static_cast<char>(payload.size() >> shift));
  out.push_back(static_cast<char>(type));
  out.push_back(static_cast<char>(flags));
  for (const int shift : {24, 16, 8, 0}) out.push_back(static_cast<char>(stream >> shift));
  return out.append(payload);
}

// A GET of "/" with host "h", from HPACK's static table.
std::string get(std::uint32_t stream, int flags = NGHTTP2_FLAG_END_STREAM | NGHTTP2_FLAG_END_HEADERS) {
  using namespace std::string_view_literals;
  return frame(NGHTTP2_HEADERS, flags, stream, "\x82\x84\x86\x41\x01h"sv);
}

std::string hello() { return std::string(kHttp2Preface) + frame(NGHTTP2_SETTINGS, 0, 0, {}); }

// Feeds `next(i)` until the connection ends; returns how many frames it took.
int frames_borne(const std::function<std::string(int)>& next, int most) {
  int handled = 0;
  MemoryConnection connection(
      [&](const Held& exchange) {
        ++handled;
        echo(exchange);
      },
      true);
  connection.feed(hello());
  for (int i = 0; i < most; ++i) {
    connection.feed(next(i));
    if (connection.protocol().fate() != Protocol::Fate::open) return i;
  }
  return most;
}

TEST(Http2, EndsFloods) {
  const auto id = [](int i) { return static_cast<std::uint32_t>(2 * i + 1); };
  EXPECT_LT(frames_borne([](int) { return frame(NGHTTP2_PING, 0, 0, "12345678"); }, 100'000), 40'000);
  EXPECT_LT(frames_borne([](int) { return frame(NGHTTP2_SETTINGS, 0, 0, {}); }, 100'000), 40'000);
  EXPECT_LT(frames_borne([](int) { return frame(77, 0, 0, "unknown"); }, 100'000), 40'000);
  // Rapid reset (CVE-2023-44487).
  EXPECT_LT(
      frames_borne([&](int i) { return get(id(i)) + frame(NGHTTP2_RST_STREAM, 0, id(i), {"\0\0\0\x8", 4}); }, 100'000),
      5'000);
  // The same, made by us: a window update of zero is the stream's error.
  EXPECT_LT(frames_borne(
                [&](int i) {
                  return get(id(i), NGHTTP2_FLAG_END_HEADERS) + frame(NGHTTP2_WINDOW_UPDATE, 0, id(i), {"\0\0\0\0", 4});
                },
                100'000),
            5'000);
  // Endless continuations (CVE-2024-28182).
  EXPECT_LT(frames_borne([&](int i) { return i == 0 ? get(1, 0) : frame(NGHTTP2_CONTINUATION, 0, 1, {}); }, 1000), 20);
  // Empty data frames (CVE-2019-9518).
  EXPECT_LT(
      frames_borne([&](int i) { return i == 0 ? get(1, NGHTTP2_FLAG_END_HEADERS) : frame(NGHTTP2_DATA, 0, 1, {}); },
                   100'000),
      40'000);
  // Requests are no flood.
  EXPECT_EQ(frames_borne([&](int i) { return get(id(i)); }, 20'000), 20'000);
}

TEST(Http2, BoundsAHeaderBomb) {
  // One large field put into HPACK's table, then named again and again.
  using namespace std::string_view_literals;
  std::string field = "\x40\x01x"sv.data();
  field += "\x7f\x81\x1e";  // a value of 127 + 1 + 30 * 128 = 3968 bytes
  field += std::string(3968, 'y');
  std::string head = "\x82\x84\x86\x41\x01h" + field + std::string(16'000 - field.size(), '\xbe');
  MemoryConnection connection([](const Held&) { ADD_FAILURE(); }, true);
  connection.feed(hello());
  connection.feed(frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM | NGHTTP2_FLAG_END_HEADERS, 1, head));
  EXPECT_EQ(connection.protocol().fate(), Protocol::Fate::open);
}

TEST(Http2, ClosesOnNonsense) {
  for (const std::string& bytes :
       {std::string(kHttp2Preface) + "GET / HTTP/1.1\r\n\r\n", hello() + frame(NGHTTP2_DATA, 0, 0, "x"),
        hello() + frame(NGHTTP2_HEADERS, 4, 2, "\x82"), hello() + std::string(100, '\xff')}) {
    MemoryConnection connection([](const Held&) { ADD_FAILURE(); }, true);
    connection.feed(bytes);
    EXPECT_EQ(connection.protocol().fate(), Protocol::Fate::close);
  }
}

}  // namespace
}  // namespace ashlar::net
