// The keys and teams as requests meet them: in memory, keys under their hashes, never
// further behind the database than kBehind.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "gateway/identity/key_store.h"
#include "gateway/identity/network.h"
#include "gateway/identity/principal.h"
#include "gateway/identity/team_store.h"

namespace ashlar::gateway {

using Who = std::shared_ptr<const Principal>;

// A thread of its own asks the database for its generation of keys, and reads them anew when it
// is another: a key that any process blocks is refused here within kBehind. While
// the database cannot be asked, the keys last read go on: see trouble(). Any thread.
class KeyRing {
 public:
  static constexpr std::chrono::milliseconds kBehind{250};

  // `keys` and `teams`, which may be null, outlive this. As KeyStore::list() and TeamStore::list().
  static Result<std::unique_ptr<KeyRing>> open(KeyStore& keys,
                                               std::function<std::int64_t()> unix_seconds = system_unix_seconds,
                                               TeamStore* teams = nullptr);
  virtual ~KeyRing() = default;

  // Whether there is a key, or was one since this opened: whoever deletes the last
  // does not thereby open the server to all.
  virtual bool used() const = 0;

  // Whose the key is. unauthorized, in the same words whether there is none, or it or its
  // team is blocked, expired, or not for this network (`from`; nullopt: unknown); and in others where the text is
  // mistyped.
  virtual Result<Who> find(std::string_view text, const std::optional<Address>& from) const = 0;

  // What the kept teams make of somebody whom a token or a certificate proved; find() has asked them already. Who names
  // no team is of the one whose member his user is; who has no tenant but himself gets the team's; the team's models
  // are added. forbidden: the team is blocked.
  virtual Result<Who> with_team(Who who) const = 0;

  // "" or, in a sentence, why keys may be out of date.
  virtual std::string trouble() const = 0;
  // Reads them now rather than soon; for who has just changed them, and for tests.
  virtual Status reload() = 0;
};

}  // namespace ashlar::gateway
