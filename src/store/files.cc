#include "store/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/descriptor.h"

namespace ashlar::store {
namespace {

Error refused(const std::string& path) {
  const int why = errno;
  if (why == ENOSPC || why == EDQUOT) return Error{Code::io, fmt::format("{}: the disk is full", path)};
  return Error{why == ENOENT ? Code::not_found : Code::io, fmt::format("{}: {}", path, std::strerror(why))};
}

}  // namespace

Result<std::string> read_small_file(const std::string& path, std::size_t limit) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info{};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) return refused(path);
  if (!S_ISREG(info.st_mode)) return Error{Code::io, fmt::format("{}: is not a regular file", path)};
  std::string text;
  char buffer[16 << 10];
  while (true) {
    const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return refused(path);
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > limit) return Error{Code::too_large, fmt::format("{}: longer than {} bytes", path, limit)};
  }
}

Status write_small_file(const std::string& path, std::string_view text) {
  static std::atomic<unsigned> count{0};
  const std::string aside = fmt::format("{}.{}-{}.new", path, ::getpid(), count.fetch_add(1));
  Status written;
  {
    const Descriptor file(::open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0) return refused(path);
    if (!write_all(file.get(), text) || ::fsync(file.get()) != 0) written = refused(path);
  }
  if (written && ::rename(aside.c_str(), path.c_str()) != 0) written = refused(path);
  if (!written) ::unlink(aside.c_str());
  return written;
}

Status make_folders(const std::string& path) {
  std::error_code failed;
  if (std::filesystem::is_directory(path, failed)) return {};
  const std::string above = std::filesystem::path(path).parent_path().string();
  if (!above.empty() && above != path) TRY(make_folders(above));
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return refused(path);
  if (!std::filesystem::is_directory(path, failed)) return Error{Code::io, fmt::format("{}: is not a folder", path)};
  return {};
}

Result<FolderLock> FolderLock::take(const std::string& path, Kind kind) {
  FolderLock lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (lock.fd_ < 0) return refused(path);
  if (::flock(lock.fd_, (kind == Kind::shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return lock;
  if (errno != EWOULDBLOCK) return refused(path);
  return Error{Code::unavailable, fmt::format("{}: another process is at work in the store", path)};
}

FolderLock::FolderLock(FolderLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace ashlar::store
