// File descriptors.
#pragma once

#include <string>
#include <string_view>

namespace ashlar {

// Closes when it dies. Below 0: it could not be opened, and errno says why.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// All of it, in as many pieces as it takes. False: some is not written, and errno says why.
bool write_all(int fd, std::string_view bytes);

// The names in a folder are on the disk too. If that fails, a file may be missing
// after a power cut, never half there.
void sync_folder(const std::string& folder);
// The same for the folder that `path` is in.
void sync_folder_of(const std::string& path);

}  // namespace ashlar
