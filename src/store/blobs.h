// The cold tier: bytes kept far away under their sha256, in an S3 bucket or in a
// folder such as a network mount. Both twins pass one suite of tests.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "store/courier.h"
#include "store/download.h"
#include "store/hub.h"
#include "store/part_file.h"

namespace ashlar::store {

// One thread. Errors: io, or as Courier::ask().
class Blobs {
 public:
  virtual ~Blobs() = default;
  // nullopt: it is not there.
  virtual Result<std::optional<std::uint64_t>> size(const std::string& sha256, const Poll& poll) = 0;
  // Copies the file at `path` there; it appears whole or not at all.
  virtual Status put(const std::string& sha256, const std::string& path, const Poll& poll) = 0;
  // Fills `part`, unchecked, going on where an earlier try was cut off if it can.
  virtual Status get(const std::string& sha256, std::uint64_t size, PartFile& part, const DownloadWatch& watch) = 0;
  virtual Status remove(const std::string& sha256, const Poll& poll) = 0;
};

// "s3://BUCKET[/PREFIX]", or a folder. `courier` and `settings` must outlive it.
// invalid: an address that is neither.
Result<std::unique_ptr<Blobs>> open_blobs(const std::string& where, Courier& courier, const HubSettings& settings,
                                          const DownloadOptions& options);

}  // namespace ashlar::store
