#include "base/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace ashlar {

Result<MappedFile> MappedFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const int reason = errno;
    return Error{reason == ENOENT ? Code::not_found : Code::io, fmt::format("{}: {}", path, std::strerror(reason))};
  }
  struct stat info{};
  const bool regular = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  MappedFile file;
  file.path_ = path;
  file.identity_ = {.inode = info.st_ino,
                    .bytes = static_cast<std::uint64_t>(info.st_size),
                    .modified_ns = info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
  if (regular && info.st_size > 0) {
    file.size_ = static_cast<std::size_t>(info.st_size);
    void* at = ::mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED) {
      const int reason = errno;
      ::close(fd);
      file.size_ = 0;
      return Error{Code::io, fmt::format("{}: cannot be mapped: {}", path, std::strerror(reason))};
    }
    file.data_ = static_cast<const std::byte*>(at);
  }
  ::close(fd);
  if (!regular) return Error{Code::io, fmt::format("{}: not a regular file", path)};
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      path_(std::move(other.path_)),
      identity_(other.identity_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  std::swap(identity_, other.identity_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::advise(std::span<const std::byte> part, int advice) const {
  const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t offset = static_cast<std::size_t>(part.data() - data_);
  CHECK(offset <= size_ && part.size() <= size_ - offset, "only a part of this file can be spoken of");
  const std::size_t begin = (offset + page - 1) / page * page;
  const std::size_t end = offset + part.size() == size_ ? size_ : (offset + part.size()) / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, advice);
}

void MappedFile::release(std::span<const std::byte> part) const { advise(part, MADV_DONTNEED); }

void MappedFile::expect_few_reads(std::span<const std::byte> part) const {
  advise(part, MADV_RANDOM);
  advise(part, MADV_NOHUGEPAGE);
}

}  // namespace ashlar
