// A file on its way to us: what has come is on the disk, and a journal beside it
// says which parts those are, so that a process killed at any moment can be
// followed by another that goes on.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/courier.h"

namespace ashlar::store {

// A run of the file that is fetched in order: [begin, begin + have) has come.
struct Piece {
  std::uint64_t begin = 0, end = 0;
  std::uint64_t have = 0;
};

struct Journal {
  std::uint64_t size = 0;  // of the whole file
  std::string validator;   // the server's name for the state that it was fetched in; "": it has none
  std::vector<Piece> pieces;
};

std::string write_journal(const Journal& journal);
// corrupt: not such a text, or pieces that do not tile the size.
Result<Journal> read_journal(std::string_view text);

// Pieces of equal length, at least `least`, that tile `size`.
std::vector<Piece> cut_pieces(std::uint64_t size, std::uint64_t least);

// PATH and PATH.journal. Holds PATH locked against other processes and other
// PartFiles of this one. Move-only. One thread, but for write().
class PartFile {
 public:
  // Waits while another has it, polling. io.
  static Result<PartFile> open(const std::string& path, const Poll& poll);
  // A file that is whole, to be read only, or set aside. Not locked. io.
  static Result<PartFile> look_at(const std::string& path);
  PartFile(PartFile&& other) noexcept;
  PartFile& operator=(PartFile&&) = delete;
  ~PartFile();

  // What an earlier process left that can be gone on with.
  std::optional<Journal> journal() const;
  // Begins anew: a file of `size` bytes, whose room on the disk is taken at once;
  // nullopt: the size is not known, nothing is taken. io: the disk is full.
  Status begin(std::optional<std::uint64_t> size);
  // Any thread, at different places. io.
  Status write(std::uint64_t at, std::string_view bytes);
  // The bytes are on the disk, then the journal says so. io.
  Status save(const Journal& journal);
  // Reads from `at` into `out`, as much as there is. io.
  Result<std::size_t> read(std::uint64_t at, std::span<char> out) const;
  // The file, whole and read-only, becomes `target`. io.
  Status commit(const std::string& target);
  // Moves what came to `target`, where nobody takes it for the file. io.
  Status set_aside(const std::string& target);
  // Nothing is left.
  void discard();

 private:
  PartFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  Error refused() const;  // from errno
  std::string journal_path() const { return path_ + ".journal"; }

  std::string path_;
  int fd_;
};

}  // namespace ashlar::store
