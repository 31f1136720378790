#include "store/redis/test_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace ashlar::store {
namespace {

// A listening socket on a free port of 127.0.0.1.
std::pair<int, int> listen_somewhere() {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::listen(listener, 64), 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  return {listener, ntohs(address.sin_port)};
}

}  // namespace

RedisServer::RedisServer(std::vector<std::string> arguments, bool tls) : arguments_(std::move(arguments)) {
  const auto [listener, port] = listen_somewhere();
  const auto [tls_listener, tls_port] = listen_somewhere();
  ::close(listener);
  ::close(tls_listener);
  port_ = port;
  tls_port_ = tls ? tls_port : 0;
  start();
}

void RedisServer::start() {
  std::vector<std::string> words = {"redis-server", "--port", std::to_string(port_), "--bind", "127.0.0.1",
                                    "--save",       "",       "--appendonly",        "no",     "--dir",
                                    "/tmp"};
  if (tls_port_ != 0) words.insert(words.end(), {"--tls-port", std::to_string(tls_port_)});
  words.insert(words.end(), arguments_.begin(), arguments_.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int out[2];
  ASSERT_EQ(::pipe2(out, O_CLOEXEC), 0);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    ::dup2(out[1], 1);
    ::execvp("redis-server", argv.data());
    ::_exit(127);
  }
  ::close(out[1]);
  std::string said;
  char piece[4096];
  while (said.find("Ready to accept connections") == said.npos) {
    const ssize_t got = ::read(out[0], piece, sizeof piece);
    if (got <= 0) break;
    said.append(piece, static_cast<std::size_t>(got));
  }
  ::close(out[0]);
  ASSERT_NE(said.find("Ready to accept connections"), said.npos) << "is redis-server installed? It said: " << said;
}

void RedisServer::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RedisServer::stop() {
  ::kill(pid_, SIGSTOP);
  int status = 0;
  ::waitpid(pid_, &status, WUNTRACED);
}

void RedisServer::go_on() { ::kill(pid_, SIGCONT); }

resp::Value RedisServer::ask(std::vector<std::string> command) {
  RedisOptions options{.port = port_, .timeout = std::chrono::seconds(10)};
  auto client = RedisClient::create(options);
  auto answer = (*client)->call(std::move(command));
  EXPECT_TRUE(answer) << answer.error().message;
  return answer ? *answer : resp::Value{};
}

RedisServer& shared_redis() {
  static RedisServer server;
  return server;
}

FakeRedis::FakeRedis(std::function<std::string(std::string_view)> answer) : answer_(std::move(answer)) {
  std::tie(listener_, port_) = listen_somewhere();
  accepting_ = std::jthread([this] {
    while (true) {
      const int client = ::accept(listener_, nullptr, nullptr);
      if (client < 0) return;
      const std::lock_guard lock(mutex_);
      clients_.push_back(client);
      threads_.emplace_back([this, client] { serve(client); });
    }
  });
}

FakeRedis::~FakeRedis() {
  ::shutdown(listener_, SHUT_RDWR);
  accepting_.join();
  ::close(listener_);
  {
    const std::lock_guard lock(mutex_);
    for (const int client : clients_) ::shutdown(client, SHUT_RDWR);
  }
  threads_.clear();
  for (const int client : clients_) ::close(client);
}

void FakeRedis::serve(int client) {
  char piece[4096];
  while (true) {
    const ssize_t got = ::recv(client, piece, sizeof piece, 0);
    if (got <= 0) return;
    const std::string said = answer_(std::string_view(piece, static_cast<std::size_t>(got)));
    if (said.empty() || ::send(client, said.data(), said.size(), MSG_NOSIGNAL) < 0) break;
  }
  ::shutdown(client, SHUT_RDWR);
}

}  // namespace ashlar::store
