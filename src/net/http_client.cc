#include "net/http_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <condition_variable>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/log.h"
#include "net/channel.h"
#include "net/http1_response.h"
#include "net/http_text.h"

namespace ashlar::net {
namespace {

namespace asio = boost::asio;
using Resolver = asio::ip::basic_resolver<asio::ip::tcp, Executor>;

class Client;
class Link;

// What send() was given, and where its callbacks end.
class Task {
 public:
  Task(ClientRequest&& request, ClientCallbacks&& callbacks)
      : request(std::move(request)), callbacks_(std::move(callbacks)) {}

  // Each holds the lock while the callback runs, so that cancel() can wait for it.
  void connected(const std::string& address) {
    const std::lock_guard lock(mutex_);
    if (!over_ && callbacks_.on_connect) callbacks_.on_connect(address);
  }
  void head(int status, const Headers& headers) {
    const std::lock_guard lock(mutex_);
    if (!over_ && callbacks_.on_head) callbacks_.on_head(status, headers);
  }
  void data(std::string_view piece) {
    const std::lock_guard lock(mutex_);
    if (!over_ && callbacks_.on_data) callbacks_.on_data(piece);
  }
  void done(Status status) {
    const std::lock_guard lock(mutex_);
    if (std::exchange(over_, true)) return;
    if (callbacks_.on_done) callbacks_.on_done(std::move(status));
  }
  // No callback runs after it, but for the one that may have called it.
  void cancel() {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }

  bool is_over() {
    const std::lock_guard lock(mutex_);
    return over_;
  }

  // The client's thread only.
  ClientRequest request;
  Url url;
  std::optional<Proxy> proxy;  // on the way to it
  TimePoint until = kNever;
  bool retried = false;
  std::weak_ptr<Link> link;  // what serves it now

 private:
  std::recursive_mutex mutex_;  // a callback may drop its own Call
  bool over_ = false;           // GUARDED_BY(mutex_)
  const ClientCallbacks callbacks_;
};

// One connection to one server: being made, serving a task, or kept idle.
class Link final : public ChannelOwner, public std::enable_shared_from_this<Link> {
 public:
  Link(Client& client, std::string key);
  void connect(std::shared_ptr<Task> task);
  void serve(std::shared_ptr<Task> task);
  // Ends the task, if any, with `why`, and the connection.
  void close(Error why);
  bool serves(const Task& task) const { return task_.get() == &task; }
  const std::string& key() const { return key_; }

  void readable() override;
  void writable() override { pump(); }

 private:
  void connect_to(const Resolver::results_type& found);
  void connect_to(std::vector<asio::ip::tcp::endpoint> endpoints);
  void connected(Socket socket);
  void ask_for_tunnel();
  bool answered_by_proxy(std::string_view bytes);
  void refused_by_proxy(int status);
  void send_request();
  bool received(std::string_view bytes);
  void ended();
  void finish();
  void pump();
  void set_deadline();
  void expire();

  std::chrono::milliseconds connect_timeout() const;
  std::chrono::milliseconds response_timeout() const;
  const Proxy* proxy() const { return task_ && task_->proxy ? &*task_->proxy : nullptr; }
  // " by the proxy http://..." or nothing, for sentences.
  std::string by_proxy() const { return proxy() != nullptr ? " by the proxy " + proxy()->shown() : ""; }

  Client& client_;
  const std::string key_;  // scheme, host and port
  std::optional<Resolver> resolver_;
  std::optional<Socket> connecting_;
  std::unique_ptr<Channel> channel_;
  std::shared_ptr<Task> task_;
  std::optional<ResponseReader> reader_;
  Deadlines::Entry deadline_;
  TimePoint quiet_until_ = kNever;
  bool tunnel_asked_ = false;  // of a proxy, whose answer is awaited
  bool request_sent_ = false;  // put into the channel
  bool reused_ = false;
  bool closed_ = false;
};

// What after() promises.
struct Alarm {
  std::recursive_mutex mutex;  // `due` may drop its own Call
  bool over = false;           // GUARDED_BY(mutex)
  std::function<void()> due;
  std::optional<Deadlines::Entry> entry;  // the client's thread only
};

class Client final : public HttpClient {
 public:
  Client(ClientOptions options, std::shared_ptr<const TlsContext> tls);
  ~Client() override;
  std::unique_ptr<Call> send(ClientRequest request, ClientCallbacks callbacks) override;
  std::unique_ptr<Call> after(std::chrono::milliseconds delay, std::function<void()> due) override;

  // The rest is for links, on the thread.
  void start(std::shared_ptr<Task> task);
  void cancel(const Task& task);
  void disarm(const std::shared_ptr<Alarm>& alarm);
  bool keep(const std::shared_ptr<Link>& link);
  void forget(const std::shared_ptr<Link>& link);

  const ClientOptions options;
  const std::shared_ptr<const TlsContext> tls;
  const std::shared_ptr<IoThread> thread = std::make_shared<IoThread>();

 private:
  std::unordered_set<std::shared_ptr<Link>> links_;
  std::map<std::string, std::vector<std::shared_ptr<Link>>> idle_;  // the latest used last
  std::unordered_set<std::shared_ptr<Alarm>> alarms_;
  bool ending_ = false;
};

class HeldCall final : public Call {
 public:
  HeldCall(Client& client, std::shared_ptr<Task> task)
      : client_(client), thread_(client.thread), task_(std::move(task)) {}
  ~HeldCall() override {
    if (task_->is_over()) return;
    task_->cancel();
    // A call may outlive its client: then nothing is left to cancel.
    thread_->post([client = &client_, task = std::move(task_)] { client->cancel(*task); });
  }

 private:
  Client& client_;
  const std::shared_ptr<IoThread> thread_;
  std::shared_ptr<Task> task_;
};

class HeldAlarm final : public Call {
 public:
  HeldAlarm(Client& client, std::shared_ptr<Alarm> alarm)
      : client_(client), thread_(client.thread), alarm_(std::move(alarm)) {}
  ~HeldAlarm() override {
    {
      const std::lock_guard lock(alarm_->mutex);
      alarm_->over = true;
    }
    thread_->post([client = &client_, alarm = std::move(alarm_)] { client->disarm(alarm); });
  }

 private:
  Client& client_;
  const std::shared_ptr<IoThread> thread_;
  std::shared_ptr<Alarm> alarm_;
};

// --- a connection

Link::Link(Client& client, std::string key)
    : client_(client), key_(std::move(key)), deadline_(client.thread->deadlines, [this] { expire(); }) {}

std::chrono::milliseconds Link::connect_timeout() const {
  const auto asked = task_->request.connect_timeout;
  return asked.count() > 0 ? asked : client_.options.connect_timeout;
}

std::chrono::milliseconds Link::response_timeout() const {
  const auto asked = task_->request.response_timeout;
  return asked.count() > 0 ? asked : client_.options.response_timeout;
}

void Link::connect(std::shared_ptr<Task> task) {
  task_ = std::move(task);
  task_->link = weak_from_this();
  quiet_until_ = Clock::now() + connect_timeout();
  set_deadline();
  const std::string& host = proxy() != nullptr                ? proxy()->host
                            : !task_->request.address.empty() ? task_->request.address
                                                              : task_->url.host;
  const int port = proxy() != nullptr ? proxy()->port : task_->url.port;
  boost::system::error_code is_a_name;
  const auto address = asio::ip::make_address(host, is_a_name);
  if (!is_a_name) {
    const asio::ip::tcp::endpoint endpoint(address, static_cast<std::uint16_t>(port));
    return connect_to(Resolver::results_type::create(endpoint, host, ""));
  }
  resolver_.emplace(client_.thread->io);
  resolver_->async_resolve(
      host, fmt::format("{}", port), Resolver::numeric_service,
      [self = shared_from_this(), host](const boost::system::error_code& failed, const Resolver::results_type& found) {
        if (self->closed_) return;
        self->resolver_.reset();
        if (failed)
          self->close(
              {Code::unavailable, fmt::format("Cannot find the {} '{}': {}.",
                                              self->proxy() != nullptr ? "proxy" : "host", host, failed.message())});
        else
          self->connect_to(found);
      });
}

void Link::connect_to(const Resolver::results_type& found) {
  std::vector<asio::ip::tcp::endpoint> endpoints;
  Status refused;
  for (const auto& each : found) {
    const auto& admit = task_->request.admit;
    Status admitted = admit && proxy() == nullptr ? admit(each.endpoint().address().to_string()) : Status();
    if (admitted)
      endpoints.push_back(each.endpoint());
    else
      refused = std::move(admitted);
  }
  if (endpoints.empty() && !refused) return close(std::move(refused).error());
  connect_to(std::move(endpoints));
}

void Link::connect_to(std::vector<asio::ip::tcp::endpoint> endpoints) {
  connecting_.emplace(client_.thread->io);
  asio::async_connect(
      *connecting_, endpoints,
      [self = shared_from_this()](const boost::system::error_code& failed, const asio::ip::tcp::endpoint& to) {
        if (self->closed_) return;
        if (failed)
          return self->close(
              {Code::unavailable, fmt::format("Cannot connect to {}: {}.",
                                              self->proxy() != nullptr ? "the proxy " + self->proxy()->shown()
                                                                       : self->task_->url.authority(),
                                              failed.message())});
        Socket socket = std::move(*self->connecting_);
        self->connecting_.reset();
        self->task_->connected(to.address().to_string());
        if (self->closed_) return;
        self->connected(std::move(socket));
      });
}

void Link::connected(Socket socket) {
  boost::system::error_code ignored;
  socket.native_non_blocking(true, ignored);
  const bool tls = task_->url.tls, tunnel = tls && proxy() != nullptr;
  channel_ = std::make_unique<Channel>(*client_.thread, std::move(socket),
                                       tls && !tunnel ? TlsSession::connect(client_.tls, task_->url.host) : nullptr);
  if (tunnel)
    ask_for_tunnel();
  else if (!tls)
    send_request();
  pump();
}

// RFC 9110, 9.3.6.
void Link::ask_for_tunnel() {
  const Url& url = task_->url;
  const std::string host = url.host.find(':') == url.host.npos ? url.host : "[" + url.host + "]";
  const std::string to = fmt::format("{}:{}", host, url.port);
  std::string head = fmt::format("CONNECT {} HTTP/1.1\r\nhost: {}\r\n", to, to);
  if (const std::string& who = proxy()->authorization; !who.empty())
    head.append("proxy-authorization: ").append(who).append("\r\n");
  channel_->out().append(head + "\r\n");
  reader_.emplace("HEAD", client_.options.max_header, client_.options.max_body);  // an answer without a body
  tunnel_asked_ = true;
}

// False: reading stops for now, or the connection is closed.
bool Link::answered_by_proxy(std::string_view bytes) {
  int status = 0;
  const ResponseReader::Events events{.head = [&](ResponseHead&& head) { status = head.status; }, .content = {}};
  if (Status read = reader_->read(bytes, events); !read) {
    close({read.error().code, fmt::format("The proxy {}: {}", proxy()->shown(), read.error().message)});
    return false;
  }
  if (!reader_->done()) return true;
  if (status < 200 || status > 299) {
    refused_by_proxy(status);
  } else if (!bytes.empty() || !channel_->all_sent()) {
    close(
        {Code::corrupt, fmt::format("The proxy {} sent more than an answer to what it was asked.", proxy()->shown())});
  } else {
    tunnel_asked_ = false;
    reader_.reset();
    channel_->start_tls(TlsSession::connect(client_.tls, task_->url.host));
  }
  return false;
}

void Link::refused_by_proxy(int status) {
  const std::string shown = proxy()->shown(), to = task_->url.authority();
  if (status == 407)
    return close(
        {Code::unauthorized,
         fmt::format("The proxy {} wants a user name and a password{}: {}_proxy=http://USER:PASSWORD@HOST:PORT "
                     "gives them.",
                     shown, proxy()->authorization.empty() ? "" : ", and not these",
                     task_->url.tls ? "https" : "http")});
  const Code code = status == 403 ? Code::forbidden : Code::unavailable;
  close({code, fmt::format("The proxy {} does not connect to {}: {} {}.", shown, to, status, reason(status))});
}

void Link::serve(std::shared_ptr<Task> task) {
  task_ = std::move(task);
  task_->link = weak_from_this();
  reused_ = true;
  send_request();
  pump();
}

void Link::send_request() {
  const ClientRequest& request = task_->request;
  const Url& url = task_->url;
  const bool handed_over = proxy() != nullptr && !url.tls;  // to a proxy, which wants the whole address
  std::string head =
      fmt::format("{} {}{} HTTP/1.1\r\nhost: {}\r\n", request.method,
                  handed_over ? "http://" + url.authority() : std::string(), url.target, url.authority());
  if (handed_over && !proxy()->authorization.empty())
    head.append("proxy-authorization: ").append(proxy()->authorization).append("\r\n");
  for (const auto& [name, value] : request.headers)
    if (may_send(name) && !equals_ignoring_case(name, "host"))
      head.append(name).append(": ").append(safe_value(value)).append("\r\n");
  const bool has_body =
      !request.body.empty() || request.method == "POST" || request.method == "PUT" || request.method == "PATCH";
  if (has_body) fmt::format_to(std::back_inserter(head), "content-length: {}\r\n", request.body.size());
  head.append("\r\n");
  channel_->out().append(head);
  channel_->out().append(request.body);  // a copy: a reused connection may turn out dead
  reader_.emplace(request.method, client_.options.max_header, client_.options.max_body);
  request_sent_ = true;
  quiet_until_ = Clock::now() + response_timeout();
}

void Link::readable() {
  const auto input = channel_->read([this](std::string_view bytes) { return received(bytes); });
  if (closed_) return;
  switch (input) {
    case Channel::Input::open:
      return pump();
    case Channel::Input::ended:
    case Channel::Input::lost:
      return ended();
    case Channel::Input::refused:
      return close({Code::unavailable, fmt::format("TLS with {} failed: {}.", key_, channel_->tls()->error())});
  }
}

// False: the connection is closed or idle again.
bool Link::received(std::string_view bytes) {
  if (!task_) {
    // A server that speaks unasked cannot be trusted with the next call. (Under
    // TLS it may send tickets, which are no bytes to us.)
    if (!bytes.empty()) close({});
    return !closed_;
  }
  if (tunnel_asked_) return answered_by_proxy(bytes);
  if (!request_sent_) send_request();
  quiet_until_ = Clock::now() + response_timeout();
  const auto task = task_;
  bool unknown_to_proxy = false;
  const ResponseReader::Events events{.head =
                                          [&](ResponseHead&& head) {
                                            unknown_to_proxy = head.status == 407 && task->proxy && !task->url.tls;
                                            if (!unknown_to_proxy) task->head(head.status, head.headers);
                                          },
                                      .content =
                                          [&](std::string_view piece) {
                                            if (!unknown_to_proxy) task->data(piece);
                                          }};
  if (Status read = reader_->read(bytes, events); !read) {
    close(std::move(read).error());
    return false;
  }
  if (closed_) return false;
  if (unknown_to_proxy) {
    refused_by_proxy(407);
    return false;
  }
  if (!reader_->done()) return true;
  const bool reusable = reader_->keep_alive() && channel_->all_sent() && bytes.empty();
  if (reusable) {
    finish();
    return false;
  }
  task_.reset();
  task->done({});
  close({});
  return false;
}

// The answer is whole: the connection is kept for the next call.
void Link::finish() {
  const auto task = std::exchange(task_, nullptr);
  reader_.reset();
  request_sent_ = false;
  quiet_until_ = Clock::now() + client_.options.idle_timeout;
  const bool kept = client_.keep(shared_from_this());
  task->done({});  // which may well send the next
  if (!kept) close({});
}

void Link::ended() {
  if (!task_) return close({});
  if (tunnel_asked_)
    return close(
        {Code::unavailable, fmt::format("The proxy {} closed the connection before it answered.", proxy()->shown())});
  if (!reader_)
    return close({Code::unavailable, fmt::format("{} closed the connection before the TLS handshake was done.", key_)});
  Status end = reader_->read_end();
  if (end) {
    const auto task = std::exchange(task_, nullptr);
    task->done({});
    return close({});
  }
  // A kept connection may have been closed while the request was on its way; what
  // changes nothing by being asked twice is asked again (RFC 9110, 9.2.2).
  static constexpr std::string_view kSafe[] = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"};
  const bool safe = task_->request.repeatable || std::ranges::find(kSafe, task_->request.method) != std::end(kSafe);
  if (reused_ && !reader_->begun() && !task_->retried && safe) {
    auto task = std::exchange(task_, nullptr);
    task->retried = true;
    close({});
    return client_.start(std::move(task));
  }
  close(std::move(end).error());
}

void Link::pump() {
  if (closed_ || !channel_) return;
  auto sent = Channel::Sent::some;
  while (sent == Channel::Sent::some) sent = channel_->send();
  if (sent == Channel::Sent::blocked) channel_->wait_write(shared_from_this());
  // Lost: an answer may still be there to be read; reading tells the end as well.
  channel_->wait_read(shared_from_this());
  set_deadline();
}

void Link::set_deadline() { deadline_.set(std::min(quiet_until_, task_ ? task_->until : kNever)); }

void Link::expire() {
  const auto self = shared_from_this();
  if (!task_) return close({});
  if (Clock::now() >= task_->until)
    return close({Code::deadline,
                  fmt::format("{} did not finish its answer within {} ms.", key_, task_->request.timeout.count())});
  if (!request_sent_)
    return close({Code::unavailable,
                  fmt::format("{} could not be reached{} within {} ms.", key_, by_proxy(), connect_timeout().count())});
  close({Code::deadline, fmt::format("{} was silent for {} ms.", key_, response_timeout().count())});
}

void Link::close(Error why) {
  if (std::exchange(closed_, true)) return;
  const auto self = shared_from_this();
  const auto task = std::exchange(task_, nullptr);
  deadline_.set(kNever);
  if (resolver_) resolver_->cancel();
  boost::system::error_code ignored;
  if (connecting_) connecting_->close(ignored);
  if (channel_) channel_->close(false);
  client_.forget(self);
  if (task) task->done(std::unexpected(std::move(why)));
}

// --- the client

Client::Client(ClientOptions given, std::shared_ptr<const TlsContext> context)
    : options(std::move(given)), tls(std::move(context)) {
  thread->start("ashlar-client");
}

Client::~Client() {
  thread->call([this] {
    ending_ = true;
    while (!alarms_.empty()) disarm(std::shared_ptr(*alarms_.begin()));
    while (!links_.empty()) (*links_.begin())->close({Code::cancelled, "The HTTP client was closed."});
    thread->finish();
  });
  thread->join();
}

std::unique_ptr<Call> Client::send(ClientRequest request, ClientCallbacks callbacks) {
  auto task = std::make_shared<Task>(std::move(request), std::move(callbacks));
  if (task->request.timeout.count() > 0) task->until = Clock::now() + task->request.timeout;
  asio::post(thread->io, [this, task] { start(task); });
  return std::make_unique<HeldCall>(*this, std::move(task));
}

std::unique_ptr<Call> Client::after(std::chrono::milliseconds delay, std::function<void()> due) {
  auto alarm = std::make_shared<Alarm>();
  alarm->due = std::move(due);
  thread->post([this, alarm, when = Clock::now() + delay] {
    if (ending_) return;
    alarms_.insert(alarm);
    alarm->entry.emplace(thread->deadlines, [weak = std::weak_ptr(alarm)] {
      const auto rung = weak.lock();
      if (!rung) return;
      const std::lock_guard lock(rung->mutex);
      if (!std::exchange(rung->over, true)) rung->due();
    });
    alarm->entry->set(when);
  });
  return std::make_unique<HeldAlarm>(*this, std::move(alarm));
}

void Client::disarm(const std::shared_ptr<Alarm>& alarm) {
  alarm->entry.reset();
  alarms_.erase(alarm);
}

void Client::start(std::shared_ptr<Task> task) {
  if (task->is_over()) return;
  if (ending_) return task->done(std::unexpected(Error{Code::cancelled, "The HTTP client was closed."}));
  if (!is_token(task->request.method))
    return task->done(std::unexpected(Error{Code::invalid, "The method is not a word."}));
  auto url = parse_url(task->request.url);
  if (!url) return task->done(std::unexpected(url.error()));
  task->url = std::move(*url);
  auto proxy = options.proxies.find(task->url);
  if (!proxy) return task->done(std::unexpected(proxy.error()));
  task->proxy = std::move(*proxy);
  const std::string key = fmt::format("{}://{}", task->url.tls ? "https" : "http", task->url.authority());
  if (const auto found = idle_.find(key); found != idle_.end() && !task->retried) {
    const auto link = found->second.back();
    found->second.pop_back();
    if (found->second.empty()) idle_.erase(found);
    return link->serve(std::move(task));
  }
  const auto link = std::make_shared<Link>(*this, key);
  links_.insert(link);
  link->connect(std::move(task));
}

void Client::cancel(const Task& task) {
  if (const auto link = task.link.lock(); link && link->serves(task))
    link->close({Code::cancelled, "The call was dropped."});
}

// False: enough are kept already.
bool Client::keep(const std::shared_ptr<Link>& link) {
  auto& kept = idle_[link->key()];
  if (ending_ || std::ssize(kept) >= options.max_idle_per_host) return false;
  kept.push_back(link);
  return true;
}

void Client::forget(const std::shared_ptr<Link>& link) {
  links_.erase(link);
  const auto found = idle_.find(link->key());
  if (found == idle_.end()) return;
  std::erase(found->second, link);
  if (found->second.empty()) idle_.erase(found);
}

}  // namespace

Result<std::unique_ptr<HttpClient>> HttpClient::create(ClientOptions options) {
  if (options.tls_cert.empty() != options.tls_key.empty())
    return Error{Code::invalid, "A client certificate needs both the certificate and its key."};
  auto tls = TRY(TlsContext::client({.certificate = options.tls_cert, .key = options.tls_key, .ca = options.tls_ca},
                                    options.tls_verify));
  return std::make_unique<Client>(std::move(options), std::move(tls));
}

Result<ClientResponse> fetch(HttpClient& client, ClientRequest request) {
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Result<ClientResponse>> result;
  ClientResponse response;
  const auto call =
      client.send(std::move(request), {.on_head =
                                           [&](int status, const Headers& headers) {
                                             response.status = status;
                                             response.headers = headers;
                                           },
                                       .on_data = [&](std::string_view piece) { response.body.append(piece); },
                                       .on_done =
                                           [&](Status status) {
                                             const std::lock_guard lock(mutex);
                                             if (status)
                                               result = std::move(response);
                                             else
                                               result = std::unexpected(std::move(status).error());
                                             changed.notify_one();
                                           }});
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return result.has_value(); });
  return std::move(*result);
}

}  // namespace ashlar::net
