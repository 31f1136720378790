// Asks other servers: the one place of this room that opens connections, and so
// the one that the offline switch closes. It follows redirects without taking
// anyone's credentials to another server, waits as long as a busy server asks,
// and tries again what may go better.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "net/http_client.h"

namespace ashlar::store {

struct CourierOptions {
  bool offline = false;
  int retries = 8;                         // tries in a row that may fail without any progress
  std::chrono::milliseconds backoff{500};  // before the second try; doubled each time
  std::chrono::milliseconds longest_backoff{30'000};
  std::chrono::milliseconds longest_wait{120'000};  // a server that asks for more is an error
  std::chrono::milliseconds connect_timeout{15'000};
  std::chrono::milliseconds silence{60'000};  // of a server in the midst of an answer
  std::string tls_ca;                         // PEM; empty: the system's authorities
  net::ProxyRules proxies;                    // on the way to any of them
};

// Says who we are, by fields that depend on the request (AWS Signature 4). Any thread.
class RequestSigner {
 public:
  virtual ~RequestSigner() = default;
  virtual void sign(net::ClientRequest& request) const = 0;
};

// Something to be had from a server, and what is said to that server alone.
struct Address {
  std::string url;
  net::Headers headers;
  std::shared_ptr<const RequestSigner> signer;  // null: none
};

// Called many times a second by whoever waits; an error ends the wait with it.
using Poll = std::function<Status()>;

// The waits between tries of one thing.
class Patience {
 public:
  explicit Patience(const CourierOptions& options) : options_(options) {}
  // How long to wait after a failure, at least as long as the server asks;
  // nullopt: give up.
  std::optional<std::chrono::milliseconds> after_failure(std::optional<std::chrono::milliseconds> asked);
  void progressed() { failures_ = 0; }

 private:
  const CourierOptions& options_;
  int failures_ = 0;
};

// A whole answer of a server that was willing: 2xx.
struct Document {
  int status = 0;
  net::Headers headers;
  std::string body;
};

// Where an address leads when it is asked, followed by hand: `from`, answered
// with `status` and `headers`. Fields and signer stay behind unless the server is
// the same.
Result<Address> redirected(const Address& from, int status, const net::Headers& headers);

inline constexpr int kMostRedirects = 10;
// Tries to reach a server of which nothing has come yet: one that is not there is mostly a wrong name.
inline constexpr int kMostUnreached = 3;

// What a server that refuses says, in a sentence that begins with `what`:
// unauthorized, forbidden, not_found, exhausted (429), unavailable, invalid. Of `body` an error of S3's is told.
Error refused_by(const std::string& what, const std::string& url, int status, const net::Headers& headers,
                 std::string_view body = {});

class Courier {
 public:
  // invalid: authorities that cannot be read.
  static Result<std::unique_ptr<Courier>> create(CourierOptions options);

  // unavailable, when offline.
  Status check_online(const std::string& what) const;

  struct Question {
    std::string method = "GET";
    net::Headers headers;  // beside the address's own; sent wherever a redirect leads
    std::string body;
    std::size_t limit = 32 << 20;  // of the answer
  };
  // Asks and waits, at most `kAskTime` for each try. Errors begin with `what`.
  Result<Document> ask(const std::string& what, Address address, const Question& question, const Poll& poll);

  // One request without redirects or tries, as net::HttpClient::send(). Not when offline.
  std::unique_ptr<net::Call> send(const Address& address, net::ClientRequest request, net::ClientCallbacks callbacks);

  const CourierOptions& options() const { return options_; }

 private:
  Courier(CourierOptions options, std::unique_ptr<net::HttpClient> client)
      : options_(std::move(options)), client_(std::move(client)) {}
  Result<Document> ask_once(const Address& address, const Question& question, const Poll& poll);

  const CourierOptions options_;
  const std::unique_ptr<net::HttpClient> client_;  // null: offline
};

// Waits for `time`, polling.
Status wait_polling(std::chrono::milliseconds time, const Poll& poll);

}  // namespace ashlar::store
