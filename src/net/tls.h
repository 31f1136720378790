// TLS 1.3 as a filter on bytes: sealed bytes in, plain bytes out, and back. It
// owns no socket, so that a connection is the same code with it and without.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct ssl_ctx_st;
struct ssl_st;

namespace ashlar::net {

// Certificates and rules, shared by many sessions. Any thread.
class TlsContext {
 public:
  struct Files {
    std::string certificate, key;  // PEM; a client may leave both empty
    std::string ca;                // PEM: who may have signed the peer; empty: see below
  };
  // With `ca`, clients are asked for a certificate, and one that it has not signed is
  // refused; none is refused where it is `required`. invalid: a file that cannot be
  // read or does not hold what it should.
  static Result<std::shared_ptr<const TlsContext>> server(const Files& files, bool required = true);
  // Peers are verified against `ca`, or the system's authorities where it is
  // empty, or not at all where `verify` is false.
  static Result<std::shared_ptr<const TlsContext>> client(const Files& files, bool verify);

  ssl_ctx_st* raw() const { return context_.get(); }
  // When its own certificate ends, or the first of those that stand with it; nothing: it has none.
  std::optional<std::chrono::system_clock::time_point> until() const;

 private:
  struct Free {
    void operator()(ssl_ctx_st* context) const;
  };
  explicit TlsContext(std::unique_ptr<ssl_ctx_st, Free> context) : context_(std::move(context)) {}
  std::unique_ptr<ssl_ctx_st, Free> context_;
};

// One connection's TLS. One thread.
class TlsSession {
 public:
  static std::unique_ptr<TlsSession> accept(std::shared_ptr<const TlsContext> context);
  // `host` is asked for by SNI and must be in the peer's certificate. `http2`: h2 is offered, and http/1.1 after it.
  static std::unique_ptr<TlsSession> connect(std::shared_ptr<const TlsContext> context, const std::string& host,
                                             bool http2 = false);
  ~TlsSession();

  // Sealed bytes from the peer; their plain text is appended to `plain`. False:
  // the peer broke the protocol or was refused; sealed() may still hold an alert.
  bool receive(std::string_view bytes, std::string& plain);
  // Seals some of `plain` into sealed(); returns how many bytes it took: 0 before
  // ready().
  std::size_t send(std::string_view plain);
  // Says goodbye (close_notify) into sealed().
  void close();

  bool ready() const { return ready_; }  // the handshake is done
  bool ended() const { return ended_; }  // the peer said goodbye
  std::string_view protocol() const;     // "h2", "http/1.1" or ""
  const std::string& error() const { return error_; }
  // The alternative names of the peer's certificate, as HttpRequest has them; null: it showed none that was
  // verified. After ready().
  std::shared_ptr<const std::vector<std::string>> peer_names() const;
  // What must go to the peer; the holder takes from it.
  std::string& sealed() { return sealed_; }

 private:
  friend struct TlsBytes;
  TlsSession(std::shared_ptr<const TlsContext> context, bool server);
  bool handshake();

  struct Free {
    void operator()(ssl_st* session) const;
  };
  std::shared_ptr<const TlsContext> context_;
  std::unique_ptr<ssl_st, Free> ssl_;
  std::string_view incoming_;  // during receive()
  std::string sealed_;
  std::string error_;
  bool ready_ = false;
  bool ended_ = false;
};

}  // namespace ashlar::net
