#include "models/formats/new_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/descriptor.h"

namespace ashlar::models {
namespace {

namespace fs = std::filesystem;

Error taken(const std::string& path) {
  return Error{Code::invalid, fmt::format("{}: is there already, and is not overwritten unasked", path)};
}

// What stands at `path` may give way. A folder that somebody keeps other things in never does.
Status check_place(const std::string& path, bool replace) {
  std::error_code failed;
  const fs::file_status there = fs::symlink_status(path, failed);
  if (!fs::exists(there)) return {};
  if (!fs::is_directory(there)) return Error{Code::invalid, fmt::format("{}: is not a folder", path)};
  if (fs::is_empty(path, failed)) return {};
  if (!replace) return taken(path);
  bool model = fs::exists(fs::path(path) / "config.json", failed);
  for (fs::directory_iterator entry(path, failed), end; !failed && entry != end; entry.increment(failed))
    model = model && !entry->is_directory(failed);
  if (failed || !model)
    return Error{Code::invalid, fmt::format("{}: is a folder of something else than a model, and stays", path)};
  return {};
}

}  // namespace

NewFolder::NewFolder(std::string path, std::string aside, bool replace)
    : path_(std::move(path)), aside_(std::move(aside)), replace_(replace) {}

NewFolder::NewFolder(NewFolder&& other) noexcept
    : path_(std::move(other.path_)),
      aside_(std::exchange(other.aside_, {})),
      replace_(other.replace_),
      fd_(std::exchange(other.fd_, -1)) {}

NewFolder::~NewFolder() {
  close_file();
  std::error_code unknown;
  if (!aside_.empty()) fs::remove_all(aside_, unknown);
}

Result<NewFolder> NewFolder::create(const std::string& path, bool replace) {
  std::string plain = path;
  while (plain.size() > 1 && plain.ends_with('/')) plain.pop_back();
  TRY(check_place(plain, replace));
  NewFolder folder(plain, fmt::format("{}.partial-{}", plain, ::getpid()), replace);
  if (::mkdir(folder.aside_.c_str(), 0777) == 0) return folder;
  const Error error = folder.refused();
  folder.aside_.clear();  // not ours
  return error;
}

Error NewFolder::refused() const {
  return Error{Code::io, fmt::format("{}: cannot be written: {}", path_, std::strerror(errno))};
}

void NewFolder::close_file() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Status NewFolder::begin(const std::string& name) {
  CHECK(fd_ < 0 && name.find('/') == name.npos, "one plain file at a time");
  fd_ = ::open((aside_ + "/" + name).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd_ < 0) return refused();
  return {};
}

Status NewFolder::write(std::string_view bytes) {
  if (!write_all(fd_, bytes)) return refused();
  return {};
}

Status NewFolder::end() {
  if (::fsync(fd_) != 0) return refused();
  close_file();
  return {};
}

Status NewFolder::commit() {
  sync_folder(aside_);
  std::error_code failed;
  const bool there = fs::exists(path_, failed);
  if (there && replace_ && !fs::is_empty(path_, failed)) {
    // Either of the two stands under the name at any time.
    TRY(check_place(path_, true));
    if (::renameat2(AT_FDCWD, aside_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0) {
      if (errno != EINVAL) return refused();
      fs::remove_all(path_, failed);  // a file system that knows no exchange
      if (::rename(aside_.c_str(), path_.c_str()) != 0) return refused();
      aside_.clear();
    }
  } else if (::rename(aside_.c_str(), path_.c_str()) != 0) {  // takes the place of an empty folder alone
    return errno == ENOTEMPTY || errno == EEXIST ? Status(taken(path_)) : Status(refused());
  } else {
    aside_.clear();
  }
  if (!aside_.empty()) fs::remove_all(std::exchange(aside_, {}), failed);  // what stood there before
  sync_folder(fs::path(path_).parent_path().string());
  return {};
}

}  // namespace ashlar::models
