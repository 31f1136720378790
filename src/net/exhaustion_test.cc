// A process that has no file descriptor left.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "net/http_server.h"
#include "net/test_peer.h"

namespace ashlar::net {
namespace {

using Held = std::shared_ptr<Exchange>;
constexpr std::string_view kGet = "GET /a HTTP/1.1\r\nhost: h\r\n\r\n";

// Takes every descriptor that this process may have, but one.
class AllButOne {
 public:
  AllButOne() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit few{.rlim_cur = 512, .rlim_max = before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &few);
    for (int fd = ::open("/dev/null", O_RDONLY); fd >= 0; fd = ::open("/dev/null", O_RDONLY)) taken_.push_back(fd);
    EXPECT_FALSE(taken_.empty());
    ::close(taken_.back());
    taken_.pop_back();
  }
  ~AllButOne() {
    for (const int fd : taken_) ::close(fd);
    ::setrlimit(RLIMIT_NOFILE, &before_);
  }
  AllButOne(const AllButOne&) = delete;
  AllButOne& operator=(const AllButOne&) = delete;

 private:
  rlimit before_{};
  std::vector<int> taken_;
};

TEST(HttpServer, WithoutDescriptorsStreamsGoOnAndNewcomersWait) {
  Inbox<Held> inbox;
  const auto server = serve([&](Held exchange) { inbox.put(std::move(exchange)); });
  Peer streaming(server->port());
  streaming.send(kGet);
  echo(inbox.take());
  EXPECT_EQ(streaming.read_reply().status, 200) << "while there are some; what is made once was made then";
  streaming.send(kGet);
  const Held stream = inbox.take();
  stream->begin(200, {});
  std::unique_ptr<Peer> late;
  {
    const AllButOne all;
    late = std::make_unique<Peer>(server->port());  // with the last one: the server has none to accept it with
    late->send(kGet);
    for (int i = 0; i < 3; ++i) {
      stream->write("data: goes on\n\n");
      EXPECT_NE(streaming.read_until("\n\n\r\n").find("goes on"), std::string::npos);
    }
    EXPECT_TRUE(inbox.empty());
  }
  echo(inbox.take());
  EXPECT_EQ(late->read_reply().status, 200) << "it waited, and nobody had to start anything anew";
}

}  // namespace
}  // namespace ashlar::net
