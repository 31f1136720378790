// HTTP as the rest of the house sees it: one Exchange per request, the same
// over HTTP/1.1 and HTTP/2, plain or TLS.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ashlar::net {

using Headers = std::vector<std::pair<std::string, std::string>>;  // names in lower case

// The first value of `name` (lower case); "" if absent.
std::string_view find_header(const Headers& headers, std::string_view name);

struct HttpRequest {
  std::string method;  // "POST"
  std::string path;    // "/v1/models", percent-decoded, without the query
  std::string query;   // as sent, without "?"
  Headers headers;
  std::string body;  // whole, within the server's limit
  std::string peer;  // "127.0.0.1:40312"
  int version = 11;  // 11 or 20
  bool tls = false;
  // Of the certificate that the client proved to hold, its alternative names: "DNS:host", "URI:spiffe://...",
  // "email:who@where"; null where it showed none.
  std::shared_ptr<const std::vector<std::string>> peer_names;
};

// How far an answer has come on its way out, for whoever must know it to the byte: `*count` becomes `value` in the
// moment before the kernel is handed the last byte that the mark stands behind, and goes back to what it was where the
// kernel did not take it. A mark whose bytes never leave dies unseen. The count may lie in memory that outlives this
// process.
struct Mark {
  std::shared_ptr<std::atomic<std::uint64_t>> count;
  std::uint64_t value = 0;
};
using Marks = std::vector<Mark>;

// One request and the way to answer it. Every method may be called from any
// thread; calls after the client left or the answer ended do nothing. Held by
// whoever will answer; if the last holder drops it unanswered, the client gets 500.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual const HttpRequest& request() const = 0;

  // A whole answer. `headers` needs no content-length.
  virtual void respond(int status, Headers headers, std::string body) = 0;

  // An answer in pieces: begin, write..., end. Each write is sent at once.
  virtual void begin(int status, Headers headers) = 0;
  virtual void write(std::string piece) = 0;
  virtual void end() = 0;

  // The same, with marks behind their last byte. An exchange without a kernel below it counts at once.
  virtual void respond_marked(int status, Headers headers, std::string body, Marks marks) {
    for (const Mark& mark : marks) mark.count->store(mark.value);
    respond(status, std::move(headers), std::move(body));
  }
  virtual void write_marked(std::string piece, Marks marks) {
    for (const Mark& mark : marks) mark.count->store(mark.value);
    write(std::move(piece));
  }

  // `gone` is called at most once, on a network thread, when the client
  // disconnects, resets the stream, or stops reading for longer than the server
  // bears (by time, or by bytes piled up) before end(). At once if it already has.
  // It is forgotten at the end of the answer; it must not hold this Exchange,
  // which would then keep itself alive.
  virtual void on_gone(std::function<void()> gone) = 0;

  // Where the caller runs on this exchange's own network thread: runs `task` there, once what runs now has returned.
  // False: it runs elsewhere.
  virtual bool later(std::function<void()> task) {
    (void)task;
    return false;
  }
};

// Called on a network thread when a request is complete; must not block long.
using Handler = std::function<void(std::shared_ptr<Exchange>)>;

}  // namespace ashlar::net
