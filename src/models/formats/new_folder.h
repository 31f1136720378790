// A folder of files that appears whole or not at all.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace ashlar::models {

// Filled under a temporary name beside its own, so that the last step is a rename. A NewFolder that dies without
// commit() leaves nothing behind, and whatever stood there before stays. Move-only; one thread.
class NewFolder {
 public:
  // replace: a model's folder of that name may be there: one with a config.json and no folders within. invalid: there
  // is one, or what is there is something else; io: the place cannot be written to.
  static Result<NewFolder> create(const std::string& path, bool replace);

  NewFolder(NewFolder&& other) noexcept;
  NewFolder& operator=(NewFolder&&) = delete;
  ~NewFolder();

  const std::string& path() const { return path_; }

  // One file after another: begin(), some write()s, end(), after which it is on the disk. `name`: a plain file name.
  // io: the disk is full, or the system refuses otherwise.
  Status begin(const std::string& name);
  Status write(std::string_view bytes);
  Status end();

  // The folder is there under its name. Once. As write(), and invalid where somebody else has made it meanwhile.
  Status commit();

 private:
  NewFolder(std::string path, std::string aside, bool replace);
  Error refused() const;  // from errno
  void close_file();

  std::string path_, aside_;  // aside_ empty: committed, or moved from
  bool replace_;
  int fd_ = -1;  // of the file at hand
};

}  // namespace ashlar::models
