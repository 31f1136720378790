// Asks a server on this machine as many independent clients would: requests become due at random moments (a Poisson
// process of RATE a second), whether or not earlier ones were answered. A request's time is counted from the moment it
// was due until its answer is whole, so that no wait goes unseen. It says
// `{"p50":MS,"p99":MS,"rate":PER_SECOND,"bad":N}`.
//
//   paced_client PORT RATE SECONDS KEY BODY
//
// An answer has a content-length, or is "transfer-encoding: chunked". Three system calls a request: what it measures
// runs on the same cores.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr std::chrono::milliseconds kWarmup{300}, kGrace{5000};
constexpr int kClients = 32;  // with a connection each; more where all of them wait

nanoseconds seconds(double count) { return nanoseconds(static_cast<std::int64_t>(count * 1e9)); }

class Client {
 public:
  Client(int port, double rate, double lasts, std::string request)
      : request_(std::move(request)),
        between_(rate),
        begin_(Clock::now() + kWarmup),
        end_(begin_ + seconds(lasts)),
        due_(Clock::now()) {
    to_.sin_family = AF_INET;
    to_.sin_port = htons(static_cast<std::uint16_t>(port));
    to_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < kClients; ++i) idle_.push_back(open());
  }

  void run() {
    while (true) {
      const auto now = Clock::now();
      for (; due_ <= now && due_ < end_; due_ += seconds(between_(random_))) ask(due_);
      if (due_ >= end_ && (waiting_ == 0 || now > end_ + kGrace)) break;
      const nanoseconds left = std::max<nanoseconds>((due_ < end_ ? due_ : end_ + kGrace) - now, nanoseconds(0));
      const timespec wait{.tv_sec = left.count() / 1'000'000'000, .tv_nsec = left.count() % 1'000'000'000};
      std::array<epoll_event, 64> events;
      const int ready = ::epoll_pwait2(epoll_, events.data(), static_cast<int>(events.size()), &wait, nullptr);
      for (int i = 0; i < ready; ++i) read(*static_cast<Connection*>(events[static_cast<std::size_t>(i)].data.ptr));
    }
    bad_ += waiting_;
    std::ranges::sort(times_);
    const auto at = [this](double share) {
      return times_.empty() ? 0 : times_[static_cast<std::size_t>(share * static_cast<double>(times_.size() - 1))];
    };
    fmt::print("{{\"p50\":{:.4f},\"p99\":{:.4f},\"rate\":{:.1f},\"bad\":{}}}\n", at(0.5), at(0.99),
               static_cast<double>(times_.size()) / std::chrono::duration<double>(end_ - begin_).count(), bad_);
  }

 private:
  struct Connection {
    int socket = -1;
    bool asked = false;  // and not answered yet
    Clock::time_point due;
    std::string answer;
  };

  Connection* open() {
    auto& made = all_.emplace_back(std::make_unique<Connection>());
    made->socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    ::setsockopt(made->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_event event{.events = EPOLLIN, .data = {.ptr = made.get()}};
    if (::connect(made->socket, reinterpret_cast<const sockaddr*>(&to_), sizeof to_) != 0 ||
        ::epoll_ctl(epoll_, EPOLL_CTL_ADD, made->socket, &event) != 0) {
      fmt::print(stderr, "paced_client: no connection\n");
      std::exit(1);
    }
    return made.get();
  }

  void ask(Clock::time_point due) {
    if (idle_.empty()) idle_.push_back(open());
    Connection& one = *idle_.front();  // which rested longest: each client has one of its own
    idle_.pop_front();
    one.due = due;
    one.asked = true;
    ++waiting_;
    if (::send(one.socket, request_.data(), request_.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request_.size()))
      lose(one);
  }

  void lose(Connection& one) {
    ::close(one.socket);
    if (!one.asked) return void(std::erase(idle_, &one));
    ++bad_;
    --waiting_;
  }

  void read(Connection& one) {
    std::array<char, 8192> bytes;
    const ssize_t got = ::recv(one.socket, bytes.data(), bytes.size(), 0);
    if (got <= 0) return lose(one);
    one.answer.append(bytes.data(), static_cast<std::size_t>(got));
    if (!is_whole(one.answer)) return;
    if (!one.answer.starts_with("HTTP/1.1 200 ")) ++bad_;
    if (one.due >= begin_) times_.push_back(std::chrono::duration<double, std::milli>(Clock::now() - one.due).count());
    one.answer.clear();
    one.asked = false;
    --waiting_;
    idle_.push_back(&one);
  }

  static bool is_whole(const std::string& answer) {
    const auto head = answer.find("\r\n\r\n");
    if (head == std::string::npos) return false;
    std::string fields = answer.substr(0, head);
    std::ranges::transform(fields, fields.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    constexpr std::string_view kLength = "\r\ncontent-length: ";
    const auto length = fields.find(kLength);
    if (length == std::string::npos) return answer.ends_with("\r\n0\r\n\r\n");
    return answer.size() >= head + 4 + std::strtoul(fields.c_str() + length + kLength.size(), nullptr, 10);
  }

  const int epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  sockaddr_in to_{};
  const std::string request_;
  std::mt19937_64 random_{1};
  std::exponential_distribution<double> between_;
  const Clock::time_point begin_, end_;
  Clock::time_point due_;
  std::vector<std::unique_ptr<Connection>> all_;
  std::deque<Connection*> idle_;
  std::vector<double> times_;  // milliseconds
  int waiting_ = 0, bad_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    fmt::print(stderr, "usage: paced_client PORT RATE SECONDS KEY BODY\n");
    return 2;
  }
  const std::string_view key = argv[4], body = argv[5];
  Client client(
      std::atoi(argv[1]), std::atof(argv[2]), std::atof(argv[3]),
      fmt::format("POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                  "authorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{}",
                  key, body.size(), body));
  client.run();
}
