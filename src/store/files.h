// Small files of the store: read whole, written whole or not at all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::store {

// not_found; too_large: over `limit` bytes; io.
Result<std::string> read_small_file(const std::string& path, std::size_t limit);

// Beside itself first, then renamed: a reader sees the old text or the new. io.
Status write_small_file(const std::string& path, std::string_view text);

// The folder and those above it, for its owner alone. io.
Status make_folders(const std::string& path);

// A lock on a file that is there for nothing else. Move-only.
class FolderLock {
 public:
  enum class Kind { shared, exclusive };
  // unavailable: somebody holds it otherwise; io.
  static Result<FolderLock> take(const std::string& path, Kind kind);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock();

 private:
  explicit FolderLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace ashlar::store
