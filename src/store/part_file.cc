#include "store/part_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/json_full.h"
#include "store/files.h"

namespace ashlar::store {
namespace {

constexpr std::uint64_t kLargest = std::uint64_t{1} << 46;
constexpr std::uint64_t kMostPieces = 4096;
constexpr std::size_t kMostJournal = 1 << 20;

// The lock is on the file that the path names now, not on one that was renamed
// or removed while we waited for it.
bool still_named(int fd, const std::string& path) {
  struct stat ours{}, named{};
  return ::fstat(fd, &ours) == 0 && ::lstat(path.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
         ours.st_dev == named.st_dev;
}

Error no_room(const std::string& path, std::uint64_t bytes) {
  struct statvfs info{};
  const std::uint64_t free = ::statvfs(path.c_str(), &info) == 0 ? info.f_bavail * info.f_frsize : 0;
  return Error{Code::io, fmt::format("{}: the disk is full: {} are needed and {} are free", path,
                                     to_string(Bytes{bytes}), to_string(Bytes{free}))};
}

std::optional<std::uint64_t> number(const Json& json) {
  return json.is_number_unsigned() ? std::optional(json.get<std::uint64_t>()) : std::nullopt;
}

}  // namespace

std::string write_journal(const Journal& journal) {
  Json pieces = Json::array();
  for (const Piece& piece : journal.pieces) pieces.push_back(Json::array({piece.begin, piece.end, piece.have}));
  return dump_json({{"format", 1}, {"size", journal.size}, {"validator", journal.validator}, {"pieces", pieces}});
}

Result<Journal> read_journal(std::string_view text) {
  const Json json = TRY(parse_json(text, {.depth = 4, .members = 16, .elements = kMostPieces}));
  const Error wrong{Code::corrupt, "this is no journal of a download"};
  if (!json.is_object() || json.value("format", Json()) != 1) return wrong;
  Journal journal;
  const auto size = number(json.value("size", Json()));
  const Json pieces = json.value("pieces", Json()), validator = json.value("validator", Json());
  if (!size || *size > kLargest || !pieces.is_array() || !validator.is_string()) return wrong;
  journal.size = *size;
  journal.validator = validator.get<std::string>();
  std::uint64_t at = 0;
  for (const Json& each : pieces) {
    if (!each.is_array() || each.size() != 3) return wrong;
    const auto begin = number(each[0]), end = number(each[1]), have = number(each[2]);
    if (!begin || !end || !have || *begin != at || *end <= *begin || *end > *size || *have > *end - *begin)
      return wrong;
    journal.pieces.push_back({.begin = *begin, .end = *end, .have = *have});
    at = *end;
  }
  if (at != journal.size) return wrong;
  return journal;
}

std::vector<Piece> cut_pieces(std::uint64_t size, std::uint64_t least) {
  const std::uint64_t length = std::max(least, (size + kMostPieces - 1) / kMostPieces);
  std::vector<Piece> pieces;
  for (std::uint64_t at = 0; at < size; at += length)
    pieces.push_back({.begin = at, .end = std::min(size, at + length)});
  return pieces;
}

PartFile::PartFile(PartFile&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

PartFile::~PartFile() {
  if (fd_ >= 0) ::close(fd_);
}

Result<PartFile> PartFile::open(const std::string& path, const Poll& poll) {
  while (true) {
    PartFile file(path, ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.fd_ < 0) return file.refused();
    while (::flock(file.fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) return file.refused();
      TRY(wait_polling(std::chrono::milliseconds(100), poll));
    }
    if (still_named(file.fd_, path)) return file;
  }
}

Result<PartFile> PartFile::look_at(const std::string& path) {
  PartFile file(path, ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file.fd_ < 0) return file.refused();
  return file;
}

Error PartFile::refused() const {
  if (errno == ENOSPC || errno == EDQUOT) return Error{Code::io, fmt::format("{}: the disk is full", path_)};
  return Error{Code::io, fmt::format("{}: {}", path_, std::strerror(errno))};
}

std::optional<Journal> PartFile::journal() const {
  const auto text = read_small_file(journal_path(), kMostJournal);
  if (!text) return std::nullopt;
  auto journal = read_journal(*text);
  struct stat info{};
  if (!journal || ::fstat(fd_, &info) != 0 || static_cast<std::uint64_t>(info.st_size) != journal->size)
    return std::nullopt;
  return std::move(*journal);
}

Status PartFile::begin(std::optional<std::uint64_t> size) {
  ::unlink(journal_path().c_str());
  if (::ftruncate(fd_, 0) != 0) return refused();
  if (size.value_or(0) == 0) return {};
  if (*size > kLargest)
    return Error{Code::too_large, fmt::format("{}: a file of {} is refused", path_, to_string(Bytes{*size}))};
  if (::fallocate(fd_, 0, 0, static_cast<off_t>(*size)) == 0) return {};
  const int why = errno;
  const bool unable = why == EOPNOTSUPP || why == ENOSYS || why == EINVAL;
  // A file system that cannot promise the room is at least asked whether it has it.
  struct statvfs info{};
  const bool full = why == ENOSPC || why == EDQUOT ||
                    (unable && ::fstatvfs(fd_, &info) == 0 && info.f_bavail * info.f_frsize < *size);
  if (full) {
    const Error error = no_room(path_, *size);
    discard();
    return error;
  }
  errno = why;
  if (!unable || ::ftruncate(fd_, static_cast<off_t>(*size)) != 0) return refused();
  return {};
}

Status PartFile::write(std::uint64_t at, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return refused();
    bytes.remove_prefix(static_cast<std::size_t>(n));
    at += static_cast<std::uint64_t>(n);
  }
  return {};
}

Status PartFile::save(const Journal& journal) {
  if (::fdatasync(fd_) != 0) return refused();
  return write_small_file(journal_path(), write_journal(journal));
}

Result<std::size_t> PartFile::read(std::uint64_t at, std::span<char> out) const {
  while (true) {
    const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(at));
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR) return refused();
  }
}

Status PartFile::commit(const std::string& target) {
  if (::fchmod(fd_, 0444) != 0 || ::fsync(fd_) != 0 || ::rename(path_.c_str(), target.c_str()) != 0) return refused();
  sync_folder_of(target);
  ::unlink(journal_path().c_str());
  return {};
}

Status PartFile::set_aside(const std::string& target) {
  if (::rename(path_.c_str(), target.c_str()) != 0) return refused();
  ::unlink(journal_path().c_str());
  return {};
}

void PartFile::discard() {
  ::unlink(journal_path().c_str());
  ::unlink(path_.c_str());
}

}  // namespace ashlar::store
