// The HTTP server: sockets, TLS, HTTP/1.1 and HTTP/2, limits and timeouts.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "net/http.h"

namespace ashlar::net {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;
  std::string tls_cert;  // PEM files; both or neither
  std::string tls_key;
  std::string tls_client_ca;                 // who signs clients' certificates
  std::string tls_client_auth = "required";  // or "optional": whether each must show one
  int http_threads = 0;
  // Where they are as many as the cores, each stays on one of its own: of threads that wake each other the scheduler
  // puts two on one core while another idles.
  bool pin_http_threads = false;
  Bytes max_body{32 << 20};
  Bytes max_bodies{1 << 30};
  Bytes max_header{64 << 10};
  int max_connections = 16384;
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{60'000};
  std::chrono::milliseconds idle_timeout{75'000};
  std::chrono::milliseconds write_timeout{30'000};
  Bytes max_unsent{4 << 20};
  void fields(auto&& field) {
    field("host", host, "Address to listen on. Without an API key only a loopback address is allowed.");
    field("port", port, "Port to listen on; 0 takes a free one and prints it.");
    field("tls_cert", tls_cert, "Certificate chain (PEM); with --tls-key the server speaks TLS 1.3 only.");
    field("tls_key", tls_key, "Private key (PEM).");
    field("tls_client_ca", tls_client_ca, "Clients present a certificate signed by this CA (PEM).");
    field("tls_client_auth", tls_client_auth,
          "required: a client without a certificate is not talked to; optional: it shows a key instead.");
    field("http_threads", http_threads,
          "Threads for the network; 0: one for each four cores, at least one; of a gateway without models one for each "
          "core. A gateway's that are as many as the cores stay each on a core of its own.");
    field("max_body", max_body, "Largest request body; a larger one is answered 413.");
    field("max_bodies", max_bodies,
          "Most bytes of request bodies arriving at once, over all connections; more are answered 503.");
    field("max_header", max_header, "Largest request header; a larger one is answered 431.");
    field("max_connections", max_connections, "Most connections open at once; further ones wait to be accepted.");
    field("header_timeout", header_timeout, "Milliseconds in which a request's header must arrive.");
    field("body_timeout", body_timeout, "Milliseconds in which a request's body must arrive.");
    field("idle_timeout", idle_timeout, "Milliseconds a connection may idle between requests.");
    field("write_timeout", write_timeout, "Milliseconds a client may stop reading before it is dropped.");
    field("max_unsent", max_unsent, "Most bytes held for a client that reads slowly before it is dropped.");
  }
};

// invalid: values that no server can have, and options that need others. Looks at no file.
Status check_options(const ServerOptions& options);

class HttpServer {
 public:
  // io: the port is in use or may not be bound, with the sentence that helps;
  // invalid: a certificate or key that cannot be read.
  static Result<std::unique_ptr<HttpServer>> listen(const ServerOptions& options, Handler handler);
  virtual ~HttpServer() = default;  // stops at once

  virtual int port() const = 0;
  // Reads the certificate, its key and the clients' CA anew, for connections that come; those that stand go on.
  // invalid: as listen(), and all is as it was. One thread at a time.
  virtual Status renew_tls() = 0;
  // When the certificate ends; nothing: the server is plain.
  virtual std::optional<std::chrono::system_clock::time_point> tls_until() const = 0;
  // Stops accepting, tells clients to go elsewhere (connection: close, GOAWAY),
  // and returns when every exchange has ended or `limit` has passed: true if
  // all had ended.
  virtual bool drain(std::chrono::milliseconds limit) = 0;
};

}  // namespace ashlar::net
