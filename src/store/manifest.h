// What the store knows of a model that it holds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace ashlar::store {

struct StoredFile {
  std::string name;  // relative, with "/"
  std::uint64_t size = 0;
  std::string sha256;
  std::string git_sha1;    // as the hub named it; "": it did not
  std::string checked_by;  // as Arrived::checked_by
};

struct Manifest {
  std::string reference;                   // Reference::text()
  std::string alias;                       // a name that the user gave it; "": none
  std::string endpoint, version, licence;  // as Listing
  std::int64_t pulled_at = 0;              // seconds since 1970
  std::vector<StoredFile> files;

  std::uint64_t bytes() const;
  // The file to be served, the first part of a split one; nullptr: the folder of all.
  const StoredFile* served() const;
};

Json manifest_json(const Manifest& manifest);
// corrupt: not such a text; names, sizes or checksums that cannot be.
Result<Manifest> read_manifest(std::string_view text);

// By which names a user may mean it, the surest first: all that is said in the
// reference, then less and less.
struct ModelNames {
  std::vector<std::string> full;   // name this model and no other
  std::vector<std::string> loose;  // may name several
};
ModelNames names_of(const Manifest& manifest);

// "2026-11-21T10:00:00Z"
std::string utc_text(std::int64_t seconds);

}  // namespace ashlar::store
