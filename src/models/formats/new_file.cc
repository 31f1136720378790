#include "models/formats/new_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/descriptor.h"

namespace ashlar::models {
namespace {

Error taken(const std::string& path) {
  return Error{Code::invalid, fmt::format("{}: is there already, and is not overwritten unasked", path)};
}

// What stands at `path` may give way.
Status check_place(const std::string& path, bool replace) {
  struct stat there{};
  if (::stat(path.c_str(), &there) != 0) return {};  // if it cannot be seen, open() will say why
  if (S_ISDIR(there.st_mode)) return Error{Code::invalid, fmt::format("{}: is a folder, not a file", path)};
  if (!S_ISREG(there.st_mode)) return Error{Code::invalid, fmt::format("{}: is not a regular file", path)};
  if (!replace) return taken(path);
  return {};
}

}  // namespace

NewFile::NewFile(std::string path, std::string aside, bool replace, int fd)
    : path_(std::move(path)), aside_(std::move(aside)), replace_(replace), fd_(fd) {}

NewFile::NewFile(NewFile&& other) noexcept
    : path_(std::move(other.path_)),
      aside_(std::move(other.aside_)),
      replace_(other.replace_),
      fd_(std::exchange(other.fd_, -1)) {}

NewFile::~NewFile() {
  if (fd_ < 0) return;
  ::unlink(aside_.c_str());
  ::close(fd_);
}

Result<NewFile> NewFile::create(const std::string& path, bool replace) {
  TRY(check_place(path, replace));
  std::string aside = fmt::format("{}.partial-{}", path, ::getpid());
  const int fd = ::open(aside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  NewFile file(path, std::move(aside), replace, fd);
  if (fd < 0) return file.refused();
  return file;
}

Error NewFile::refused() const {
  return Error{Code::io, fmt::format("{}: cannot be written: {}", path_, std::strerror(errno))};
}

Status NewFile::write(std::string_view bytes) {
  if (!write_all(fd_, bytes)) return refused();
  return {};
}

Status NewFile::commit() {
  if (::fsync(fd_) != 0) return refused();
  int renamed = ::renameat2(AT_FDCWD, aside_.c_str(), AT_FDCWD, path_.c_str(), replace_ ? 0 : RENAME_NOREPLACE);
  if (renamed != 0 && errno == EEXIST) return taken(path_);
  // Not every file system knows the flag.
  if (renamed != 0 && errno == EINVAL) renamed = ::rename(aside_.c_str(), path_.c_str());
  if (renamed != 0) return refused();
  ::close(std::exchange(fd_, -1));
  sync_folder_of(path_);
  return {};
}

}  // namespace ashlar::models
