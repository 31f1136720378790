// The client's HTTP/2 with servers written by hand, that do what no decent one would.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "net/client_http2_for_test.h"

namespace ashlar::net {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

std::string frame(int type, int flags, std::uint32_t stream, std::string_view payload) {
  std::string out;
  for (const int shift : {16, 8, 0}) out.push_back(static_cast<char>(payload.size() >> shift));
  out.push_back(static_cast<char>(type));
  out.push_back(static_cast<char>(flags));
  for (const int shift : {24, 16, 8, 0}) out.push_back(static_cast<char>(stream >> shift));
  return out.append(payload);
}
std::string number(std::uint32_t value) {
  std::string out;
  for (const int shift : {24, 16, 8, 0}) out.push_back(static_cast<char>(value >> shift));
  return out;
}
constexpr int kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kPush = 5, kPing = 6, kGoaway = 7, kWindow = 8,
              kContinuation = 9;
constexpr int kEndStream = 1, kEndHeaders = 4;
const std::string kOk = "\x88";  // ":status: 200" of HPACK's table
std::string settings(std::string_view values = {}) { return frame(kSettings, 0, 0, values); }
std::string answer(std::uint32_t stream, std::string_view body) {
  return frame(kHeaders, kEndHeaders, stream, kOk) + frame(kData, kEndStream, stream, body);
}

// One connection of a server that a test plays.
class Played {
 public:
  explicit Played(int fd) : fd_(fd) {}
  struct Frame {
    int type = -1;  // none: the client has closed
    int flags = 0;
    std::uint32_t stream = 0;
    std::string payload;
  };
  bool send(std::string_view bytes) {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == std::ssize(bytes);
  }
  Frame read() {
    if (!greeted_ && take(24).empty()) return {};
    greeted_ = true;
    const std::string head = take(9);
    if (head.empty()) return {};
    const auto byte = [&](int i) {
      return static_cast<std::uint32_t>(static_cast<unsigned char>(head[static_cast<std::size_t>(i)]));
    };
    const std::uint32_t size = byte(0) << 16 | byte(1) << 8 | byte(2);
    return {static_cast<int>(byte(3)), static_cast<int>(byte(4)),
            byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8), take(size)};
  }
  // The next frame of this type; of none: the client has closed.
  Frame await(int type) {
    while (true) {
      Frame next = read();
      if (next.type == type || next.type == -1) return next;
    }
  }
  // What is no HTTP/2: the next request's head.
  std::string head() {
    std::string out;
    while (!out.ends_with("\r\n\r\n")) {
      const std::string next = take(1);
      if (next.empty()) return {};
      out += next;
    }
    return out;
  }
  void until_closed() {
    while (read().type != -1) {
    }
  }

 private:
  std::string take(std::size_t size) {
    std::string out(size, '\0');
    std::size_t done = 0;
    while (done < size) {
      const ssize_t got = ::recv(fd_, out.data() + done, size - done, 0);
      if (got <= 0) return {};
      done += static_cast<std::size_t>(got);
    }
    return out;
  }
  const int fd_;
  bool greeted_ = false;
};

// Accepts connections one after the other; `play` plays each, with its number from 0, on a thread of its own.
class Theatre {
 public:
  explicit Theatre(std::function<void(Played&, int)> play)
      : play_(std::move(play)), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 100), 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
    accepting_ = std::jthread([this] {
      for (int number = 0;; ++number) {
        const int fd = ::accept(listener_, nullptr, nullptr);
        if (fd < 0) return;
        const std::lock_guard lock(mutex_);
        fds_.push_back(fd);
        threads_.emplace_back([this, fd, number] {
          Played played(fd);
          play_(played, number);
          ::shutdown(fd, SHUT_RDWR);
        });
      }
    });
  }
  ~Theatre() {
    ::shutdown(listener_, SHUT_RDWR);
    accepting_.join();
    for (const int fd : fds_) ::shutdown(fd, SHUT_RDWR);
    threads_.clear();
    for (const int fd : fds_) ::close(fd);
    ::close(listener_);
  }
  int port = 0;

 private:
  const std::function<void(Played&, int)> play_;
  int listener_;
  std::mutex mutex_;
  std::vector<int> fds_;               // GUARDED_BY(mutex_)
  std::vector<std::jthread> threads_;  // the accepting thread's, then the destructor's
  std::jthread accepting_;
};

TEST(ClientHttp2Played, AsksAgainForWhatAServerThatLeavesDidNotLookAt) {
  Theatre server([](Played& peer, int which) {
    peer.send(settings());
    if (which == 0) {
      for (int i = 0; i < 5; ++i) peer.await(kHeaders);
      peer.send(frame(kGoaway, 0, 0, number(3) + number(0)) + answer(1, "old"));
      peer.send(answer(3, "old"));
    } else {
      for (int i = 0; i < 3; ++i) {
        const auto asked = peer.await(kHeaders);
        peer.send(answer(asked.stream, "new"));
      }
    }
    peer.until_closed();
  });
  const auto client = make_client();
  std::vector<std::unique_ptr<Asked>> asked;
  for (int i = 0; i < 5; ++i) asked.push_back(ask(*client, {.method = "POST", .url = url(server.port)}));
  int old = 0, fresh = 0;
  for (const auto& each : asked) {
    const Status status = each->done.take();
    EXPECT_TRUE(status) << status.error().message;
    old += each->body == "old";
    fresh += each->body == "new";
  }
  EXPECT_EQ(old, 2);
  EXPECT_EQ(fresh, 3);
}

TEST(ClientHttp2Played, AsksOnceMoreForWhatIsRefused) {
  std::atomic<int> refusals = 1;
  Theatre server([&](Played& peer, int) {
    peer.send(settings());
    for (auto asked = peer.await(kHeaders); asked.type != -1; asked = peer.await(kHeaders))
      peer.send(refusals-- > 0 ? frame(kReset, 0, asked.stream, number(7)) : answer(asked.stream, "fine"));
  });
  const auto client = make_client();
  const auto reply = fetch(*client, {.method = "POST", .url = url(server.port)});
  ASSERT_TRUE(reply) << reply.error().message;
  EXPECT_EQ(reply->body, "fine");
  refusals = 2;
  const auto refused = fetch(*client, {.method = "POST", .url = url(server.port)});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::exhausted);
  EXPECT_THAT(refused.error().message, HasSubstr("refuses"));
}

TEST(ClientHttp2Played, AsksAgainWhenAKeptConnectionIsGone) {
  Theatre server([](Played& peer, int number) {
    peer.send(settings());
    peer.send(answer(peer.await(kHeaders).stream, std::to_string(number)));
    peer.await(kHeaders);  // and the connection ends with the next
  });
  const auto client = make_client();
  EXPECT_EQ(fetch(*client, {.url = url(server.port)})->body, "0");
  EXPECT_EQ(fetch(*client, {.url = url(server.port)})->body, "1");
  const auto lost = fetch(*client, {.method = "POST", .url = url(server.port)});
  ASSERT_FALSE(lost) << "it may have been done";
  EXPECT_EQ(lost.error().code, Code::corrupt);
  EXPECT_EQ(fetch(*client, {.method = "POST", .url = url(server.port), .repeatable = true})->body, "2");
  EXPECT_EQ(fetch(*client, {.method = "POST", .url = url(server.port), .repeatable = true})->body, "3");
}

TEST(ClientHttp2Played, GoesOnWhereConnectionsDieBeforeTheServerSpeaks) {
  std::atomic<int> deaths = 2;
  Theatre server([&](Played& peer, int) {
    if (deaths-- > 0) return;
    peer.send(settings());
    for (auto asked = peer.await(kHeaders); asked.type != -1; asked = peer.await(kHeaders))
      peer.send(answer(asked.stream, "fine"));
  });
  {
    const auto client = make_client();
    std::vector<std::unique_ptr<Asked>> asked;
    for (int i = 0; i < 20; ++i)
      asked.push_back(ask(*client, {.method = "POST", .url = url(server.port), .repeatable = true}));
    for (const auto& each : asked) {
      const Status status = each->done.take();
      EXPECT_TRUE(status) << status.error().message;
      EXPECT_EQ(each->body, "fine");
    }
  }
  deaths = 5;
  const auto given_up = fetch(*make_client(), {.method = "POST", .url = url(server.port), .repeatable = true});
  ASSERT_FALSE(given_up);
  EXPECT_EQ(given_up.error().code, Code::exhausted);
  deaths = 1;
  const auto lost = fetch(*make_client(), {.method = "POST", .url = url(server.port)});
  ASSERT_FALSE(lost) << "it may have been done";
  EXPECT_EQ(lost.error().code, Code::corrupt);
}

TEST(ClientHttp2Played, SpeaksHttp1ToWhoWantsThat) {
  for (const bool goes_away : {false, true}) {
    Inbox<std::string> heads;
    Theatre server([&](Played& peer, int which) {
      if (which == 0) {
        peer.send(settings());
        const auto asked = peer.await(kHeaders);
        peer.send(goes_away ? frame(kGoaway, 0, 0, number(0) + number(13))
                            : frame(kReset, 0, asked.stream, number(13)));
        return peer.until_closed();
      }
      for (std::string head = peer.head(); !head.empty(); head = peer.head()) {
        heads.put(head);
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold");
      }
    });
    const auto client = make_client();
    for (int i = 0; i < 3; ++i) {
      const auto reply = fetch(*client, {.method = "POST", .url = url(server.port)});
      ASSERT_TRUE(reply) << reply.error().message;
      EXPECT_EQ(reply->body, "old");
      EXPECT_THAT(heads.take(), testing::StartsWith("POST / HTTP/1.1\r\n"));
    }
  }
}

TEST(ClientHttp2Played, AsksAConnectionThatWasStillWhetherItLives) {
  Inbox<int> pinged;
  Theatre server([&](Played& peer, int number) {
    peer.send(settings());
    peer.send(answer(peer.await(kHeaders).stream, std::to_string(number)));
    if (number == 0) pinged.put(peer.await(kPing).type);
    peer.until_closed();
  });
  const auto client = make_client({.connect_timeout = milliseconds(300), .http2_doubt = milliseconds(0)});
  EXPECT_EQ(fetch(*client, {.url = url(server.port)})->body, "0");
  EXPECT_EQ(fetch(*client, {.url = url(server.port)})->body, "1");
  EXPECT_EQ(pinged.take(), kPing);
}

TEST(ClientHttp2Played, TakesNoMoreStreamsThanItIsAllowed) {
  Inbox<std::uint32_t> arrived;
  Inbox<int> go_on;
  Theatre server([&](Played& peer, int) {
    peer.send(settings(std::string("\0\3", 2) + number(2)));  // MAX_CONCURRENT_STREAMS
    for (int i = 0; i < 3; ++i) {
      std::vector<std::uint32_t> open;
      for (int each = 0; each < 2; ++each) open.push_back(peer.await(kHeaders).stream);
      for (const std::uint32_t stream : open) arrived.put(stream);
      go_on.take();
      for (const std::uint32_t stream : open) peer.send(answer(stream, "x"));
    }
    peer.until_closed();
  });
  const auto client = make_client({.max_http2_per_host = 1});
  std::vector<std::unique_ptr<Asked>> asked;
  for (int i = 0; i < 6; ++i) asked.push_back(ask(*client, {.url = url(server.port)}));
  for (int i = 0; i < 3; ++i) {
    arrived.take();
    arrived.take();
    EXPECT_TRUE(arrived.empty());
    go_on.put(1);
  }
  for (const auto& each : asked) EXPECT_TRUE(each->done.take());
}

// What a server that is not one does once it is asked on stream 1, and what the call ends with.
TEST(ClientHttp2Played, HostileServersGetAClearEnd) {
  const auto repeat = [](const std::string& what, std::size_t bytes) {
    std::string out;
    while (out.size() < bytes) out += what;
    return out;
  };
  const std::string ping = frame(kPing, 0, 0, "12345678"), head = frame(kHeaders, kEndHeaders, 1, kOk);
  // A field of 4,000 bytes put into HPACK's table, and then named again and again.
  const std::string bomb = kOk +
                           "\x40\x01"
                           "a\x7f\xa1\x1e" +
                           std::string(4000, 'x') + std::string(12'000, '\xbe');
  const struct {
    const char* what;
    std::string bytes;
    Code code;
    const char* says;
  } cases[] = {
      {"HTTP/1.1", "HTTP/1.1 400 Bad Request\r\n\r\n", Code::corrupt, "speaks HTTP/1.1"},
      {"noise", repeat("noise", 1000), Code::corrupt, "broke HTTP/2"},
      {"no settings", head, Code::corrupt, "broke HTTP/2"},
      {"a close", "", Code::corrupt, "closed the connection without an answer"},
      {"a close in the midst", settings() + head, Code::corrupt, "in the midst of its answer"},
      {"settings without end", repeat(settings(), 1 << 20), Code::corrupt, "broke HTTP/2"},
      {"pings without end", settings() + repeat(ping, 1 << 20), Code::corrupt, "broke HTTP/2"},
      {"frames that nobody knows", settings() + repeat(frame(77, 0, 0, "what?"), 1 << 20), Code::corrupt,
       "broke HTTP/2"},
      {"empty data without end", settings() + head + repeat(frame(kData, 0, 1, ""), 1 << 20), Code::corrupt,
       "broke HTTP/2"},
      {"early hints without end",
       settings() + repeat(frame(kHeaders, kEndHeaders, 1, std::string("\x08\x03") + "103"), 1 << 20), Code::corrupt,
       "broke HTTP/2"},
      {"continuations without end",
       settings() + frame(kHeaders, 0, 1, kOk) + repeat(frame(kContinuation, 0, 1, ""), 1 << 20), Code::corrupt, ""},
      {"a header bomb", settings() + frame(kHeaders, kEndHeaders, 1, bomb), Code::too_large, "header larger than"},
      {"trailers without end", settings() + head + frame(kHeaders, kEndHeaders | kEndStream, 1, bomb.substr(1)),
       Code::too_large, "header larger than"},
      {"data where none was asked for", settings() + frame(kData, 0, 99, "x"), Code::corrupt, "broke HTTP/2"},
      {"data before the header", settings() + frame(kData, 0, 1, "x"), Code::corrupt, ""},
      {"a window too large", settings() + frame(kWindow, 0, 0, number(0x7fffffff)), Code::corrupt, "broke HTTP/2"},
      {"a stream's window too large", settings() + frame(kWindow, 0, 1, number(0x7fffffff)), Code::corrupt,
       "FLOW_CONTROL"},
      {"a window of nothing", settings() + frame(kWindow, 0, 0, number(0)), Code::corrupt, "broke HTTP/2"},
      {"an initial window too large", settings(std::string("\0\4", 2) + number(0x80000000)), Code::corrupt,
       "broke HTTP/2"},
      {"a frame too large", settings() + frame(kHeaders, kEndHeaders, 1, std::string(20'000, '\x88')), Code::corrupt,
       "broke HTTP/2"},
      {"a promise and a close", settings() + frame(kPush, kEndHeaders, 1, number(2) + kOk), Code::corrupt, ""},
      {"bad HPACK", settings() + frame(kHeaders, kEndHeaders, 1, "\xff\xff\xff\xff\xff\xff\xff"), Code::corrupt,
       "broke HTTP/2"},
      {"no status",
       settings() + frame(kHeaders, kEndHeaders, 1,
                          std::string("\x40\x01"
                                      "a\x01"
                                      "b")),
       Code::corrupt, "PROTOCOL_ERROR"},
      {"a large letter",
       settings() + frame(kHeaders, kEndHeaders, 1,
                          kOk + "\x40\x01"
                                "A\x01"
                                "b"),
       Code::corrupt, "PROTOCOL_ERROR"},
      {"another protocol", settings() + frame(kHeaders, kEndHeaders, 1, std::string("\x08\x03") + "101"), Code::corrupt,
       ""},
      {"less than announced",
       settings() +
           frame(kHeaders, kEndHeaders, 1,
                 kOk + "\x5c\x02"
                       "10") +
           frame(kData, kEndStream, 1, "abc"),
       Code::corrupt, "PROTOCOL_ERROR"},
      {"more than announced",
       settings() +
           frame(kHeaders, kEndHeaders, 1,
                 kOk + "\x5c\x01"
                       "2") +
           frame(kData, kEndStream, 1, "abc"),
       Code::corrupt, "PROTOCOL_ERROR"},
      {"a reset", settings() + frame(kReset, 0, 1, number(8)), Code::corrupt, "without an answer: CANCEL"},
      {"a reset in the midst", settings() + head + frame(kReset, 0, 1, number(2)), Code::corrupt,
       "in the midst of its answer: INTERNAL_ERROR"},
      {"a body too large", settings() + head + repeat(frame(kData, 0, 1, std::string(16'000, 'x')), 300'000),
       Code::too_large, "larger than"},
      {"a goodbye that serves nothing", settings() + frame(kGoaway, 0, 0, number(0) + number(11)), Code::exhausted,
       "refuses"},
  };
  for (const auto& each : cases) {
    Theatre server([&](Played& peer, int) {
      peer.await(kHeaders);
      peer.send(each.bytes);
      if (std::string_view(each.what).find("close") == std::string_view::npos) peer.until_closed();
    });
    const auto client = make_client({.response_timeout = milliseconds(10'000), .max_body = 200_KiB});
    const auto reply = fetch(*client, {.method = "POST", .url = url(server.port), .body = "asked"});
    ASSERT_FALSE(reply) << each.what;
    EXPECT_EQ(reply.error().code, each.code) << each.what << ": " << reply.error().message;
    EXPECT_THAT(reply.error().message, HasSubstr(each.says)) << each.what;
  }
}

TEST(ClientHttp2Played, ASilentServerIsWaitedForAsLongAsForAConnection) {
  Theatre server([](Played& peer, int) { peer.until_closed(); });
  const auto client = make_client({.connect_timeout = milliseconds(50)});
  const auto reply = fetch(*client, {.url = url(server.port)});
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Code::unavailable);
  EXPECT_THAT(reply.error().message, HasSubstr("did not begin to speak HTTP/2"));
}

}  // namespace
}  // namespace ashlar::net
