// Who may ask: the API keys of the command line. Those that are kept in the
// state's database are the gateway's (gateway/identity/).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "net/http.h"

namespace ashlar::api {

// Keeps hashes (SHA-256) alone. Immutable once made; any thread.
class Keys {
 public:
  // invalid: a key that is empty, too long or not printable ASCII without blanks;
  // not_found: no such file. The file has a key on each line; "#" begins a comment.
  static Result<Keys> create(const std::vector<std::string>& keys, const std::string& file);

  bool empty() const { return hashes_.empty(); }

  // The tenant that the request's key stands for ("key-" and the first digits of
  // its hash), "" when there are no keys. unauthorized: no key, or a wrong one.
  // Takes `Authorization: Bearer` and `x-api-key`. Takes the same time wherever
  // a wrong key differs.
  Result<std::string> authenticate(const net::Headers& headers) const;

  // The tenant of a key that credential_of() gave; nullopt: it is none of these.
  std::optional<std::string> find(std::string_view key) const;

 private:
  using Hash = std::array<unsigned char, 32>;
  std::vector<Hash> hashes_;
};

// What the request shows of itself, in `Authorization: Bearer` or `x-api-key`; "": nothing.
std::string_view credential_of(const net::Headers& headers);

// Whether `host` names this machine alone (localhost, 127.0.0.0/8, ::1).
bool is_loopback(std::string_view host);

// forbidden: a server without keys would be open to the network; says what to do.
Status check_exposure(std::string_view host, bool has_keys);

// A server without keys trusts whoever can reach it, so web pages must not: a
// browser is turned away if the page it shows is not ours (Origin), or if the
// page's name was made to point at this machine (Host). forbidden: it is.
Status check_browser(const net::HttpRequest& request, std::string_view cors_origin);

}  // namespace ashlar::api
