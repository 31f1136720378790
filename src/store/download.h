// One file from a server to the disk: in parallel ranges, going on where an
// earlier try was cut off, and checked before anyone else sees it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/result.h"
#include "store/courier.h"
#include "store/part_file.h"

namespace ashlar::store {

// What is to come, as far as a hub has said it beforehand.
struct Wanted {
  std::string name;  // for messages
  Address address;
  std::optional<std::uint64_t> size;
  std::string sha256;    // 64 hex digits; "": not told
  std::string git_sha1;  // 40 hex digits, of a git blob; "": not told
  bool linked = false;   // the server's x-linked-etag and x-linked-size tell what a redirect leads to
};

struct Arrived {
  std::uint64_t size = 0;
  std::string sha256;
  std::string checked_by;  // "sha256", "git_sha1": equal to what the hub said; "": it said nothing
};

enum class Stage { listing, waiting, fetching, checking };

struct DownloadProgress {
  Stage stage = Stage::fetching;
  std::uint64_t done = 0;
  std::optional<std::uint64_t> total;
};
// Called some times a second on the caller's thread; an error ends the download
// with it, and what has come is kept for the next try.
using DownloadWatch = std::function<Status(const DownloadProgress&)>;

struct DownloadOptions {
  int connections = 8;
  std::uint64_t piece = 16 << 20;  // what one request asks for, or more of a very large file
  std::uint64_t small = 4 << 20;   // a file of at most so many bytes comes in one piece, unasked for ranges
};

// Fills `part` and gives what was wanted with all that was learnt on the way (its
// size is then known); nothing is checked yet. Errors begin with the name: io: the
// disk; else as Courier::ask(). What has come is kept for another try.
Result<Wanted> download(Courier& courier, const Wanted& wanted, const DownloadOptions& options, PartFile& part,
                        const DownloadWatch& watch);

// Whether what is in the file is what was wanted: its size, its checksums, its
// first bytes. corrupt: it is not; unsupported: it is of a kind that is never
// opened; io.
Result<Arrived> check_arrived(const Wanted& wanted, const PartFile& part, const DownloadWatch& watch);

}  // namespace ashlar::store
