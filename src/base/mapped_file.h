// A whole file, read-only, mapped into memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace ashlar {

// Move-only; unmaps when it dies. Any thread may read. A file that another
// process cuts short while it is mapped raises SIGBUS on access: that is the
// one thing mapping cannot guard against.
class MappedFile {
 public:
  // not_found, io (unreadable, a directory, a device).
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // Lets go of the memory behind the whole pages within `part`, a piece of
  // bytes(): reading there again brings it back from the file.
  void release(std::span<const std::byte> part) const;

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
};

}  // namespace ashlar
