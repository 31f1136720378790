#include "gateway/limits/orphans.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/mapped_file.h"
#include "store/counters.h"

namespace ashlar::gateway {
namespace {

// Below 0: it lives, or is gone.
int lock_dead(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return -1;
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  ::close(fd);
  return -1;
}

Result<JournalText> read_file(const std::string& path) {
  const MappedFile file = TRY(MappedFile::open(path));
  return read_journal({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
}

}  // namespace

Orphan::Orphan(Orphan&& other) noexcept
    : rows_(std::move(other.rows_)), path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

Orphan& Orphan::operator=(Orphan&& other) noexcept {
  std::swap(rows_, other.rows_);
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  return *this;
}

Orphan::~Orphan() {
  if (fd_ >= 0) ::close(fd_);
}

std::string_view Orphan::owner() const {
  std::string_view name = path_;
  name.remove_prefix(name.rfind('/') + 1);
  if (name.starts_with(kJournal)) name.remove_prefix(kJournal.size());
  return name.substr(0, store::reservation_owner().size());
}

void Orphan::remove() { ::unlink(path_.c_str()); }

Result<OrphanSearch> OrphanSearch::begin(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Error{Code::io, fmt::format("{}: cannot be opened: {}.", folder, std::strerror(errno))};
  OrphanSearch search(folder, fd);
  while (::flock(fd, LOCK_EX) != 0)
    if (errno != EINTR) return Error{Code::io, fmt::format("{}: cannot be locked: {}.", folder, std::strerror(errno))};
  return search;
}

OrphanSearch::OrphanSearch(OrphanSearch&& other) noexcept
    : folder_(std::move(other.folder_)), fd_(std::exchange(other.fd_, -1)) {}

OrphanSearch::~OrphanSearch() {
  if (fd_ >= 0) ::close(fd_);
}

std::vector<Orphan> OrphanSearch::orphans(const std::string& database) const {
  std::vector<Orphan> found;
  std::error_code failed;
  for (std::filesystem::directory_iterator each(folder_, failed), end; !failed && each != end; each.increment(failed)) {
    const std::string name = each->path().filename();
    const bool hidden = name.starts_with(kHiddenJournal);
    if (!hidden && !name.starts_with(kJournal)) continue;
    const std::string path = each->path();
    const int fd = lock_dead(path);
    if (fd < 0) continue;
    if (hidden) {  // its maker died before it was whole
      Orphan(path, fd, {}).remove();
      continue;
    }
    auto text = read_file(path);
    if (!text) log::error("journal_unreadable", {{"file", path}, {"why", text.error().message}});
    if (!text || text->database != database.substr(0, journal::kLongestText)) {
      ::close(fd);
      continue;
    }
    if (text->torn > 0) log::warn("journal_torn", {{"file", path}, {"slots", text->torn}});
    found.emplace_back(path, fd, std::move(text->rows));
  }
  return found;
}

}  // namespace ashlar::gateway
