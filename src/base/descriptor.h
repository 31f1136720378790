// File descriptors.
#pragma once

#include <string>

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

// The file's name in its folder is on the disk too. If that fails, the file may be
// missing after a power cut, never half there.
void sync_folder_of(const std::string& path);

}  // namespace ashlar
