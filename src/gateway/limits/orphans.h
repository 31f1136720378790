// Journals of open requests that dead processes left behind. Who lives holds a lock on his own: the kernel lets go of
// it however he dies, so no process is ever taken for another that has its number.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gateway/limits/journal_format.h"

namespace ashlar::gateway {

inline constexpr std::string_view kJournal = "usage-journal-", kHiddenJournal = ".usage-journal-";

// A journal whose process is dead, held for us alone.
class Orphan {
 public:
  Orphan(std::string path, int fd, std::vector<JournalRow> rows)
      : rows_(std::move(rows)), path_(std::move(path)), fd_(fd) {}
  Orphan(Orphan&& other) noexcept;
  Orphan& operator=(Orphan&& other) noexcept;
  ~Orphan();

  const std::vector<JournalRow>& rows() const { return rows_; }
  const std::string& path() const { return path_; }
  // What all ids of its process's reservations begin with, as its own name does.
  std::string_view owner() const;
  // All of it is where it belongs: the file goes.
  void remove();

 private:
  std::vector<JournalRow> rows_;
  std::string path_;
  int fd_;
};

// While it lives, no other process looks for orphans in this folder.
class OrphanSearch {
 public:
  // io: the folder cannot be opened. Waits for others who search.
  static Result<OrphanSearch> begin(const std::string& folder);
  OrphanSearch(OrphanSearch&& other) noexcept;
  OrphanSearch& operator=(OrphanSearch&&) = delete;
  ~OrphanSearch();
  // Of whoever wrote to `database`. What cannot be read is logged and left where it is.
  std::vector<Orphan> orphans(const std::string& database) const;

 private:
  OrphanSearch(std::string folder, int fd) : folder_(std::move(folder)), fd_(fd) {}
  std::string folder_;
  int fd_;
};

}  // namespace ashlar::gateway
