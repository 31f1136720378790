// For the tests of the client's HTTP/2.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "net/http_client.h"
#include "net/test_peer.h"

namespace ashlar::net {

inline std::string url(int port, std::string_view target = "/") {
  return "http://127.0.0.1:" + std::to_string(port) + std::string(target);
}

inline std::unique_ptr<HttpClient> make_client(ClientOptions options = {}) {
  options.http2 = Http2::always;
  return std::move(*HttpClient::create(std::move(options)));
}

// A call whose answer is gathered.
struct Asked {
  std::string body;  // once `done` has it
  Inbox<Status> done;
  std::unique_ptr<Call> call;  // last: its end waits for what calls back
};

inline std::unique_ptr<Asked> ask(HttpClient& client, ClientRequest request) {
  auto asked = std::make_unique<Asked>();
  asked->call = client.send(std::move(request),
                            {.on_data = [to = asked.get()](std::string_view piece) { to->body.append(piece); },
                             .on_done = [to = asked.get()](Status status) { to->done.put(std::move(status)); }});
  return asked;
}

}  // namespace ashlar::net
