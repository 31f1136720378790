// A file that appears whole or not at all.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::models {

// Written under a temporary name beside its own, so that the last step is a
// rename within one folder. Whatever stood there before stays until then; a
// NewFile that dies without commit() leaves nothing behind. Move-only; one thread.
class NewFile {
 public:
  // replace: a regular file of that name may be there. invalid: there is one, or
  // what is there is no regular file; io: the folder cannot be written to.
  static Result<NewFile> create(const std::string& path, bool replace);

  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile();

  const std::string& path() const { return path_; }

  // Appends. io: the disk is full, or the system refuses otherwise.
  Status write(std::string_view bytes);
  // The bytes are on the disk, then the name is the file's. Once. As write(),
  // and invalid where somebody else has made a file of that name meanwhile.
  Status commit();

 private:
  NewFile(std::string path, std::string aside, bool replace, int fd);
  Error refused() const;  // from errno

  std::string path_, aside_;
  bool replace_;
  int fd_;  // -1: committed, or moved from
};

}  // namespace ashlar::models
