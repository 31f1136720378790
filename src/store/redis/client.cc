#include "store/redis/client.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <charconv>
#include <deque>
#include <future>
#include <optional>
#include <random>
#include <utility>

#include "base/log.h"
#include "net/channel.h"
#include "net/io_thread.h"

namespace ashlar::store {
namespace {

namespace asio = boost::asio;
using net::Channel;
using net::Clock;
using net::kNever;
using net::TimePoint;
using Resolver = asio::ip::basic_resolver<asio::ip::tcp, net::Executor>;

struct Asked {
  std::string bytes;  // empty once they are sent
  RedisClient::Done done;
  TimePoint until;
};

// Everything but send() happens on its thread.
class Client final : public RedisClient, public net::ChannelOwner, public std::enable_shared_from_this<Client> {
 public:
  Client(RedisOptions options, std::shared_ptr<const net::TlsContext> tls, std::function<void()> connected)
      : options_(std::move(options)), tls_(std::move(tls)), connected_(std::move(connected)) {}

  void start() {
    thread->start("redis");
    thread->post([this] { connect(); });
  }
  void end() {
    thread->call([this] {
      ending_ = true;
      lose({Code::cancelled, "The connection to Redis is being closed."});
      thread->finish();
    });
    thread->join();
  }

  void send(std::vector<std::string> words, Done done) override;
  void readable() override;
  void writable() override { pump(); }

  const std::shared_ptr<net::IoThread> thread = std::make_shared<net::IoThread>();

 private:
  enum class State { down, connecting, greeting, ready };

  void connect();
  void connect_to(const Resolver::results_type& found);
  void greet();
  void ask(Asked asked);
  void greet_with(std::vector<std::string> words, std::function<void(resp::Value)> then);
  void ready();
  void answered(resp::Value value);
  void flush_soon();
  void pump();
  void lose(Error why);
  void set_deadline();
  void expire();
  std::string where() const { return fmt::format("{}:{}", options_.host, options_.port); }
  Error unreachable() const {
    const std::string by = lost_by_.empty() ? "." : ": " + lost_by_;
    return {Code::unavailable, fmt::format("Redis at {} cannot be reached{}", where(), by)};
  }

  const RedisOptions options_;
  const std::shared_ptr<const net::TlsContext> tls_;
  const std::function<void()> connected_;
  State state_ = State::down;
  bool hopeful_ = true;  // commands may wait for the connection: the last one worked, or this is the first
  bool ending_ = false;
  bool flushing_ = false;
  bool complained_ = false;
  int generation_ = 0;  // of the connection, so that what belongs to an old one is known
  std::chrono::milliseconds pause_ = options_.least_pause;
  std::optional<Resolver> resolver_;
  std::optional<net::Socket> connecting_;
  std::unique_ptr<Channel> channel_;
  std::optional<resp::Reader> reader_;
  std::string lost_by_;        // why the last connection ended; "": there was none
  std::deque<Asked> waiting_;  // for a connection
  std::deque<Asked> sent_;     // in the order of their answers
  TimePoint connect_until_ = kNever;
  std::minstd_rand random_{std::random_device()()};
  net::Deadlines::Entry deadline_{thread->deadlines, [this] { expire(); }};
  net::Deadlines::Entry again_{thread->deadlines, [this] { connect(); }};
};

void Client::send(std::vector<std::string> words, Done done) {
  auto shared = std::make_shared<Done>(std::move(done));
  const TimePoint until = Clock::now() + options_.timeout;
  const bool taken = thread->post([this, bytes = resp::command(words), shared, until]() mutable {
    if (ending_ || (state_ != State::ready && !hopeful_)) return (*shared)(unreachable());
    Asked asked{.bytes = std::move(bytes), .done = std::move(*shared), .until = until};
    if (state_ == State::ready)
      ask(std::move(asked));
    else
      waiting_.push_back(std::move(asked));
    set_deadline();
  });
  if (!taken) (*shared)(Error{Code::cancelled, "The connection to Redis is closed."});
}

void Client::ask(Asked asked) {
  channel_->out().append(asked.bytes);
  asked.bytes = {};
  sent_.push_back(std::move(asked));
  flush_soon();
}

// Commands that arrive together leave together.
void Client::flush_soon() {
  if (std::exchange(flushing_, true)) return;
  thread->post([this] {
    flushing_ = false;
    pump();
  });
}

void Client::connect() {
  if (ending_ || state_ != State::down) return;
  state_ = State::connecting;
  ++generation_;
  connect_until_ = Clock::now() + options_.connect_timeout;
  set_deadline();
  boost::system::error_code is_a_name;
  const auto address = asio::ip::make_address(options_.host, is_a_name);
  if (!is_a_name) {
    const asio::ip::tcp::endpoint endpoint(address, static_cast<std::uint16_t>(options_.port));
    return connect_to(Resolver::results_type::create(endpoint, options_.host, ""));
  }
  resolver_.emplace(thread->io);
  resolver_->async_resolve(
      options_.host, fmt::format("{}", options_.port), Resolver::numeric_service,
      [self = shared_from_this(), mine = generation_](const boost::system::error_code& failed, const auto& found) {
        if (self->generation_ != mine || self->state_ != State::connecting) return;
        if (failed)
          self->lose({Code::unavailable,
                      fmt::format("Cannot find the host '{}': {}.", self->options_.host, failed.message())});
        else
          self->connect_to(found);
      });
}

void Client::connect_to(const Resolver::results_type& found) {
  connecting_.emplace(thread->io);
  asio::async_connect(
      *connecting_, found,
      [self = shared_from_this(), mine = generation_](const boost::system::error_code& failed, const auto&) {
        if (self->generation_ != mine || self->state_ != State::connecting) return;
        if (failed)
          return self->lose(
              {Code::unavailable, fmt::format("Cannot connect to Redis at {}: {}.", self->where(), failed.message())});
        net::Socket socket = std::move(*self->connecting_);
        self->connecting_.reset();
        boost::system::error_code ignored;
        socket.native_non_blocking(true, ignored);
        self->channel_ =
            std::make_unique<Channel>(*self->thread, std::move(socket),
                                      self->tls_ ? net::TlsSession::connect(self->tls_, self->options_.host) : nullptr);
        self->reader_.emplace();
        self->state_ = State::greeting;
        self->greet();
        self->pump();
      });
}

// RESP3 where the server knows it (6.0 and later), else RESP2: our replies read alike in both.
void Client::greet() {
  std::vector<std::string> hello = {"HELLO", "3"};
  std::vector<std::string> auth;
  if (!options_.password.empty()) {
    const std::string user = options_.user.empty() ? "default" : options_.user;
    hello.insert(hello.end(), {"AUTH", user, options_.password});
    auth = options_.user.empty() ? std::vector<std::string>{"AUTH", options_.password}
                                 : std::vector<std::string>{"AUTH", user, options_.password};
  }
  const auto refuse = [this](const resp::Value& answer) {
    lose({Code::unauthorized, fmt::format("Redis at {} does not let us in: {}", where(), answer.text.substr(0, 200))});
  };
  const auto select = [this, refuse] {
    if (options_.database == 0) return ready();
    greet_with({"SELECT", fmt::format("{}", options_.database)}, [this, refuse](const resp::Value& answer) {
      answer.kind == resp::Value::Kind::error ? refuse(answer) : ready();
    });
  };
  greet_with(std::move(hello), [this, auth, refuse, select](const resp::Value& answer) {
    if (answer.kind == resp::Value::Kind::array) return select();
    if (answer.kind != resp::Value::Kind::error)
      return lose({Code::corrupt, fmt::format("What answers at {} is not Redis.", where())});
    const bool old = answer.text.starts_with("ERR unknown command") || answer.text.starts_with("NOPROTO");
    if (!old) return refuse(answer);
    if (auth.empty()) return select();
    greet_with(auth, [refuse, select](const resp::Value& accepted) {
      accepted.kind == resp::Value::Kind::error ? refuse(accepted) : select();
    });
  });
}

void Client::greet_with(std::vector<std::string> words, std::function<void(resp::Value)> then) {
  ask({.bytes = resp::command(words),
       .done =
           [then = std::move(then)](Result<resp::Value> answer) {
             if (answer) then(std::move(*answer));
           },
       .until = connect_until_});
}

void Client::ready() {
  state_ = State::ready;
  hopeful_ = true;
  pause_ = options_.least_pause;
  connect_until_ = kNever;
  if (std::exchange(complained_, false)) log::info("redis_reached", {{"server", where()}});
  if (connected_) connected_();
  while (!waiting_.empty() && state_ == State::ready) {
    Asked asked = std::move(waiting_.front());
    waiting_.pop_front();
    ask(std::move(asked));
  }
  set_deadline();
}

void Client::readable() {
  if (!channel_) return;
  const int mine = generation_;
  Status read;
  const auto input = channel_->read([&](std::string_view bytes) {
    read = reader_->read(bytes, [&](resp::Value value) {
      if (generation_ == mine && state_ >= State::greeting) answered(std::move(value));
    });
    return read.has_value() && generation_ == mine && channel_ != nullptr;
  });
  if (generation_ != mine || !channel_) return;
  if (state_ == State::down) return channel_.reset();  // lost in a callback, while we read from it
  if (!read) return lose(std::move(read).error());
  switch (input) {
    case Channel::Input::open:
      return pump();
    case Channel::Input::ended:
    case Channel::Input::lost:
      return lose({Code::unavailable, fmt::format("Redis at {} closed the connection.", where())});
    case Channel::Input::refused:
      return lose(
          {Code::unavailable, fmt::format("TLS with Redis at {} failed: {}.", where(), channel_->tls()->error())});
  }
}

void Client::answered(resp::Value value) {
  if (value.kind == resp::Value::Kind::push) return;
  if (sent_.empty()) return lose({Code::corrupt, fmt::format("Redis at {} answered what was not asked.", where())});
  const Done done = std::move(sent_.front().done);
  sent_.pop_front();
  done(std::move(value));
}

void Client::pump() {
  if (!channel_ || state_ == State::down) return;
  auto sent = Channel::Sent::some;
  while (sent == Channel::Sent::some) sent = channel_->send();
  const auto self = shared_from_this();
  if (sent == Channel::Sent::blocked) channel_->wait_write(self);
  channel_->wait_read(self);
  set_deadline();
}

// Ends the connection and all that was asked of it; another try comes after a pause.
void Client::lose(Error why) {
  if (state_ == State::down && !ending_) return;
  const bool worked = state_ == State::ready;
  state_ = State::down;
  hopeful_ = worked && !ending_;
  connect_until_ = kNever;
  resolver_.reset();
  connecting_.reset();
  if (channel_) channel_->close(true);  // what has not been read there need not run
  // The channel may be reading just now: it dies once nobody stands in it.
  thread->post([this, mine = generation_] {
    if (generation_ == mine && state_ == State::down) channel_.reset();
  });
  lost_by_ = why.message;
  if (!worked && !ending_ && !std::exchange(complained_, true))
    log::warn("redis_unreachable", {{"server", where()}, {"why", why.message}});
  std::deque<Asked> sent = std::exchange(sent_, {}), waiting;
  if (!hopeful_) waiting = std::exchange(waiting_, {});
  if (!ending_) {
    // The first try follows at once: most connections break because a server was started anew.
    const auto pause = worked ? options_.least_pause : pause_;
    if (!worked) pause_ = std::min(2 * pause_, options_.most_pause);
    again_.set(Clock::now() + pause / 2 +
               std::chrono::milliseconds(random_() % static_cast<unsigned>(pause.count() / 2 + 1)));
  }
  set_deadline();
  for (const Asked& asked : waiting) asked.done(why);
  if (why.code == Code::unavailable) why.code = Code::io;  // these were sent
  for (const Asked& asked : sent) asked.done(why);
}

void Client::set_deadline() {
  TimePoint first = state_ == State::connecting || state_ == State::greeting ? connect_until_ : kNever;
  if (!sent_.empty()) first = std::min(first, sent_.front().until);
  if (!waiting_.empty()) first = std::min(first, waiting_.front().until);
  deadline_.set(first);
}

void Client::expire() {
  const TimePoint now = Clock::now();
  if ((state_ == State::connecting || state_ == State::greeting) && now >= connect_until_)
    lose({Code::unavailable,
          fmt::format("Redis at {} did not answer within {} ms.", where(), options_.connect_timeout.count())});
  else if (state_ == State::ready && !sent_.empty() && now >= sent_.front().until) {
    pause_ = std::max(pause_, 5 * options_.least_pause);
    lose({Code::deadline, fmt::format("Redis at {} did not answer within {} ms.", where(), options_.timeout.count())});
    hopeful_ = false;  // a server that hangs will hang again: nobody waits for it
  }
  while (!waiting_.empty() && (now >= waiting_.front().until || !hopeful_)) {
    const Asked late = std::move(waiting_.front());
    waiting_.pop_front();
    late.done(unreachable());
  }
  set_deadline();
}

// The client that users hold; its thread must have ended before anything of it dies.
class Holder final : public RedisClient {
 public:
  explicit Holder(std::shared_ptr<Client> client) : client_(std::move(client)) { client_->start(); }
  ~Holder() override { client_->end(); }
  void send(std::vector<std::string> words, Done done) override { client_->send(std::move(words), std::move(done)); }

 private:
  const std::shared_ptr<Client> client_;
};

Result<std::string> percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned value = 0;
    const auto digits = text.substr(i + 1, 2);
    const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() != 2 || failed != std::errc{} || end != digits.data() + 2)
      return Error{Code::invalid, "the Redis address has a % that is not followed by two hexadecimal digits"};
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

Result<int> small_number(std::string_view text, int most, std::string_view what) {
  int value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc{} || end != text.data() + text.size() || value < 0 || value > most)
    return Error{Code::invalid,
                 fmt::format("the Redis address has a {} that is not a number from 0 to {}", what, most)};
  return value;
}

}  // namespace

Result<RedisOptions> parse_redis_url(const std::string& url) {
  RedisOptions options;
  std::string_view rest = url;
  if (rest.starts_with("rediss://"))
    options.tls = true;
  else if (!rest.starts_with("redis://"))
    return Error{Code::invalid, "a Redis address begins with redis:// or rediss://"};
  rest.remove_prefix(options.tls ? 9 : 8);
  if (const auto slash = rest.find('/'); slash != rest.npos) {
    if (slash + 1 < rest.size()) options.database = TRY(small_number(rest.substr(slash + 1), 1'000'000, "database"));
    rest = rest.substr(0, slash);
  }
  if (const auto at = rest.rfind('@'); at != rest.npos) {
    const std::string_view who = rest.substr(0, at);
    const auto colon = who.find(':');
    options.user = TRY(percent_decoded(who.substr(0, colon)));
    if (colon != who.npos) options.password = TRY(percent_decoded(who.substr(colon + 1)));
    rest.remove_prefix(at + 1);
  }
  const bool v6 = rest.starts_with('[');
  const auto host_end = v6 ? rest.find(']') : rest.rfind(':');
  if (v6 && host_end == rest.npos) return Error{Code::invalid, "the Redis address has a [ without its ]"};
  options.host = rest.substr(v6 ? 1 : 0, v6 ? host_end - 1 : host_end);
  if (host_end != rest.npos)
    rest.remove_prefix(v6 ? host_end + 1 : host_end);
  else
    rest = {};
  if (!rest.empty()) {
    if (rest.front() != ':') return Error{Code::invalid, "the Redis address goes on after its host"};
    options.port = TRY(small_number(rest.substr(1), 65'535, "port"));
  }
  if (options.host.empty()) return Error{Code::invalid, "the Redis address names no host"};
  return options;
}

Result<std::unique_ptr<RedisClient>> RedisClient::create(RedisOptions options, std::function<void()> connected) {
  std::shared_ptr<const net::TlsContext> tls;
  if (options.tls)
    tls = TRY(
        net::TlsContext::client({.certificate = options.tls_cert, .key = options.tls_key, .ca = options.tls_ca}, true));
  options.least_pause = std::max(options.least_pause, std::chrono::milliseconds(1));
  return std::make_unique<Holder>(std::make_shared<Client>(std::move(options), std::move(tls), std::move(connected)));
}

Result<resp::Value> RedisClient::call(std::vector<std::string> words) {
  auto answer = std::make_shared<std::promise<Result<resp::Value>>>();
  auto future = answer->get_future();
  send(std::move(words), [answer](Result<resp::Value> value) { answer->set_value(std::move(value)); });
  return future.get();
}

}  // namespace ashlar::store
