// Asks the admin API of a server that runs.
#pragma once

#include <string>

#include "base/json.h"
#include "base/result.h"

namespace ashlar::cli {

struct RemoteOptions {
  std::string server, key;
  bool json = false;
  void fields(auto&& field) {
    field("json", json, "For a script: all that is known, as JSON.");
    field("server", server,
          "Where the server is: http://HOST:PORT; left out: ASHLAR_SERVER, else http://127.0.0.1:8080.");
    field("key", key, "A key that may do this; left out: ASHLAR_KEY, else none.");
  }
};

// What the server answers. `path` begins with a slash and stands behind /admin/v1; `body` is null: none is sent.
// unavailable: nobody is there; else what the server refused, in its own words.
Result<Json> ask_server(const RemoteOptions& options, const std::string& method, const std::string& path,
                        const Json& body);
Result<Json> ask_server(const RemoteOptions& options, const std::string& method, const std::string& path);

// `text` as a part of a path or a query.
std::string percent_encode(const std::string& text);

}  // namespace ashlar::cli
