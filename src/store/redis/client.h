// One connection to a Redis server, made again when it breaks. Commands of all threads go down it one behind the other
// without waiting for answers (pipelined), on a thread of its own.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "store/redis/resp.h"

namespace ashlar::store {

// "redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]", "rediss://..." under TLS.
struct RedisOptions {
  std::string host = "127.0.0.1";
  int port = 6379;
  std::string user, password;  // both empty: none is sent; a password alone is the default user's
  int database = 0;
  bool tls = false;
  std::string tls_ca;                                // PEM; empty: the system's authorities
  std::string tls_cert, tls_key;                     // PEM, of ours; both empty: we show none
  std::chrono::milliseconds connect_timeout{1'000};  // name, TCP, TLS, AUTH and SELECT together
  std::chrono::milliseconds timeout{250};            // of a command. A server that is slower than this is down
  std::chrono::milliseconds least_pause{20}, most_pause{2'000};  // between tries to connect, doubling
};

// invalid: no such address. The password is taken out of %XX.
Result<RedisOptions> parse_redis_url(const std::string& url);

class RedisClient {
 public:
  using Done = std::function<void(Result<resp::Value>)>;

  // Begins to connect. `connected` is called on the client's thread each time a connection is ready; it may
  // send().
  static Result<std::unique_ptr<RedisClient>> create(RedisOptions options, std::function<void()> connected = {});
  // Ends open commands with `cancelled`.
  virtual ~RedisClient() = default;

  // Any thread. `done` is called exactly once, on the client's thread, within the timeout; it must not block. An answer
  // that is an error of Redis is a value of kind `error`. unavailable: it was not sent, for there is no connection
  // (which is known at once, unless one is being made for the first time or after one that worked). Nobody knows
  // whether the command ran after io: the connection broke; deadline: no answer in time; corrupt, too_large: what
  // answers is not Redis.
  virtual void send(std::vector<std::string> command, Done done) = 0;
  // The same, waited for. Not on the client's thread.
  Result<resp::Value> call(std::vector<std::string> command);
};

}  // namespace ashlar::store
