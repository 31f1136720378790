// A connected socket, plain or under TLS: the same object either way, so that
// whoever uses it is compiled once. It holds no read buffer: its owner waits for
// the socket and then reads through the thread's. One io thread.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <string>
#include <string_view>

#include "base/threads.h"
#include "net/io_thread.h"
#include "net/outbox.h"
#include "net/tls.h"

namespace ashlar::net {

using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, Executor>;

// Whoever waits for a channel; kept alive while it waits.
class ChannelOwner {
 public:
  virtual ~ChannelOwner() = default;
  virtual void readable() = 0;
  virtual void writable() = 0;
};

class Channel {
 public:
  // `socket` is connected and non-blocking; `tls` null: plain.
  Channel(IoThread& thread, Socket socket, std::unique_ptr<TlsSession> tls);

  // Bytes to send; send() takes from it.
  Outbox& out() { return out_; }
  bool all_sent() const { return out_.empty() && sealed_.empty(); }

  enum class Sent { some, blocked, nothing, lost };
  // One system call's worth. nothing: there is nothing to send, or it must wait
  // for the TLS handshake.
  Sent send();

  enum class Input { open, ended, lost, refused };
  // Gives what has arrived to `sink`, in pieces, until there is no more for now
  // or `sink` returns false. Under TLS the first piece, perhaps empty, comes when
  // the handshake is done. refused: TLS failed, see error().
  Input read(FunctionRef<bool(std::string_view)> sink);

  // Calls the owner once when the socket can be read or written. A second wait
  // while one is pending does nothing.
  void wait_read(std::shared_ptr<ChannelOwner> owner);
  void wait_write(std::shared_ptr<ChannelOwner> owner);

  // Null when plain.
  TlsSession* tls() { return tls_.get(); }
  // What follows goes out as plain text: for the last words to a client that
  // does not speak TLS.
  void drop_tls() { tls_.reset(); }

  // What follows goes under TLS, where it was plain so far and all of that is sent.
  void start_tls(std::unique_ptr<TlsSession> tls) { tls_ = std::move(tls); }

  // Says that we send no more; the peer may still.
  void end_output();
  // With `reset`, the peer sees that the stream was cut. Pending waits end
  // without a call.
  void close(bool reset);

 private:
  void seal();

  IoThread& thread_;
  Socket socket_;
  std::unique_ptr<TlsSession> tls_;
  Outbox out_;     // plain
  Outbox sealed_;  // under TLS, what goes to the socket
  bool reading_ = false, writing_ = false;
};

}  // namespace ashlar::net
