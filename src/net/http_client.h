// The HTTP client: for the load generator, for upstreams, for whatever speaks to
// another server. HTTP/1.1 and, where it is told, HTTP/2, plain or TLS, with connections kept for reuse, by a
// proxy where there is one.
// Follows no redirects and decodes no compression: it asks for neither.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "net/http.h"
#include "net/proxy.h"
#include "net/url.h"

namespace ashlar::net {

// When HTTP/2 is spoken: never; over TLS with servers that choose it (ALPN); and also without TLS, to servers that are
// known to speak it, unless a proxy is between.
enum class Http2 { off, tls, always };

struct ClientOptions {
  std::chrono::milliseconds connect_timeout{10'000};    // name, TCP and TLS together
  std::chrono::milliseconds response_timeout{300'000};  // silence before and within an answer
  std::chrono::milliseconds idle_timeout{30'000};       // a kept connection without a call
  int max_idle_per_host = 256;                          // of HTTP/1.1
  Http2 http2 = Http2::off;
  std::chrono::milliseconds http2_doubt{5'000};  // a connection that was still for longer is asked if it lives
  int max_http2_per_host = 64;  // connections; calls beyond what they take wait, as long as for a connection
  Bytes max_header{64 << 10};
  Bytes max_body{1ull << 30};
  std::string tls_ca;  // PEM; empty: the system's authorities
  bool tls_verify = true;
  std::string tls_cert;  // PEM, for servers that ask who we are; both or neither
  std::string tls_key;
  ProxyRules proxies;  // none, unless told
};

struct ClientRequest {
  std::string method = "GET";
  std::string url;
  Headers headers;  // host, content-length and the like are added
  std::string body;
  std::chrono::milliseconds timeout{0};                               // for the whole call; 0: none
  std::chrono::milliseconds connect_timeout{0}, response_timeout{0};  // 0: the client's
  // May be sent twice where a kept connection turns out to be dead, as a GET or PUT always may.
  bool repeatable = false;
  // Connected to instead of looking the URL's host up, which TLS and the host field still name; "": looked up.
  std::string address;
  // Asked with each address that a new connection might go to ("10.0.0.1"), on the client's thread; what it forbids is
  // not connected to. None: all are fine.
  std::function<Status(const std::string& address)> admit;
};

// Called on the client's thread, one at a time, in this order: head at most
// once, data any number of times, done exactly once unless the Call was dropped.
// They must not block.
struct ClientCallbacks {
  std::function<void(const std::string& address)> on_connect;  // a new connection was made, to there; before the rest
  std::function<void(int status, const Headers& headers)> on_head;
  std::function<void(std::string_view piece)> on_data;
  // exhausted: servers refused the request before they looked at it, or died before they spoke, so that it may be made
  // again, later; unavailable: no connection; deadline: a timeout; corrupt: not HTTP, or cut;
  // too_large: over a limit; invalid: the URL, the method or the proxy's address;
  // unauthorized, forbidden: so says the proxy; forbidden also: no address is admitted; cancelled: the client ends.
  std::function<void(Status)> on_done;
};

// A call under way. Dropping it cancels: when the destructor returns, no callback
// runs or will run (it waits for one that does, unless it is called from it).
class Call {
 public:
  virtual ~Call() = default;
};

class HttpClient {
 public:
  // invalid: a certificate or key that cannot be used.
  static Result<std::unique_ptr<HttpClient>> create(ClientOptions options);
  // Ends open calls with `cancelled`; waits for a name lookup under way. Not from
  // a callback.
  virtual ~HttpClient() = default;

  // Any thread, callbacks included.
  virtual std::unique_ptr<Call> send(ClientRequest request, ClientCallbacks callbacks) = 0;
  // Calls `due` once on the client's thread when so much time has passed, unless the Call was dropped or the client
  // ended.
  virtual std::unique_ptr<Call> after(std::chrono::milliseconds delay, std::function<void()> due) = 0;

  // The same on the caller's thread, where that is a network thread of a server or of a client, so that an answer need
  // not change threads on its way through this process: the callbacks come there, never before the call returns, and
  // end with `cancelled` when that thread ends. Elsewhere they are send() and after(). The client's death does not wait
  // for them: whoever uses these drops his Calls first.
  virtual std::unique_ptr<Call> send_here(ClientRequest request, ClientCallbacks callbacks) = 0;
  virtual std::unique_ptr<Call> after_here(std::chrono::milliseconds delay, std::function<void()> due) = 0;
};

// A whole answer, waited for. Any thread but the client's own.
struct ClientResponse {
  int status = 0;
  Headers headers;
  std::string body;
};
Result<ClientResponse> fetch(HttpClient& client, ClientRequest request);

}  // namespace ashlar::net
