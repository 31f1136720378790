// A whole file, read-only, mapped into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace ashlar {

// What tells one state of a file from another, as far as the system keeps count.
struct FileIdentity {
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;  // since 1970
};

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
  // As it was when the file was opened.
  const FileIdentity& identity() const { return identity_; }

  // Lets go of the memory behind the whole pages within `part`, a piece of
  // bytes(): reading there again brings it back from the file.
  void release(std::span<const std::byte> part) const;

  // From now on little is read there, here and there: a page that is read shall
  // not bring many others into memory with it.
  void expect_few_reads(std::span<const std::byte> part) const;

 private:
  MappedFile() = default;
  // Whole pages only. A mere hint: if it is refused, more memory is taken than need be.
  void advise(std::span<const std::byte> part, int advice) const;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
  FileIdentity identity_;
};

}  // namespace ashlar
