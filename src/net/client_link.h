// One of the client's connections: being made, perhaps through a proxy and under TLS, and then speaking its protocol.
// Its pool's thread.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "net/channel.h"
#include "net/client_protocol.h"
#include "net/client_task.h"
#include "net/deadlines.h"
#include "net/http1_response.h"

namespace ashlar::net {

class ClientPool;

class ClientLink final : public ChannelOwner, public ClientHome, public std::enable_shared_from_this<ClientLink> {
 public:
  // `key`: scheme, host and port of whom it will speak to.
  ClientLink(ClientPool& pool, std::string key);

  // Makes the connection, and asks for `task` on it.
  void connect(std::shared_ptr<ClientTask> task);
  // Asks for another on it.
  void serve(std::shared_ptr<ClientTask> task);
  void cancel(const ClientTask& task);
  // Ends its tasks with `why`, and the connection.
  void close(Error why) override;
  const std::string& name() const override { return key_; }

  void readable() override;
  void writable() override {
    act([] {});
  }
  TimePoint born() const { return born_; }
  int room() const { return protocol_ && !closed_ ? protocol_->room() : -1; }
  const ClientOptions& options() const override;
  Outbox& out() override { return channel_->out(); }
  bool all_sent() const override { return channel_->all_sent(); }
  bool offer() override;
  void ask_again(std::shared_ptr<ClientTask> task) override;
  void ask_in_http1(std::shared_ptr<ClientTask> task) override;

 private:
  using Tcp = boost::asio::ip::tcp;
  using Resolver = boost::asio::ip::basic_resolver<Tcp, Executor>;

  void connect_to(const Resolver::results_type& found);
  void connect_to(std::vector<Tcp::endpoint> endpoints);
  void connected(Socket socket);
  void ask_for_tunnel();
  bool answered_by_proxy(std::string_view bytes);
  bool offers_http2() const;
  void ready();
  void act(FunctionRef<void()> what);
  bool received(std::string_view bytes);
  void ended(Channel::Input how);
  void pump();
  void set_deadline();
  void expire();

  const Proxy* proxy() const { return task_ && task_->proxy ? &*task_->proxy : nullptr; }

  ClientPool& pool_;
  const std::string key_;
  const TimePoint born_ = Clock::now();
  std::shared_ptr<ClientTask> task_;  // that it is being made for
  std::optional<Resolver> resolver_;
  std::optional<Socket> connecting_;
  std::unique_ptr<Channel> channel_;
  std::optional<ResponseReader> tunnel_;      // the proxy's answer, while it is awaited
  std::unique_ptr<ClientProtocol> protocol_;  // once it is made
  TimePoint connect_until_ = kNever;
  Deadlines::Entry deadline_;
  bool acting_ = false;  // the protocol is, and what it says is sent afterwards
  bool closed_ = false;
};

}  // namespace ashlar::net
