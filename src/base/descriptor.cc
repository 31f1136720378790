#include "base/descriptor.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

namespace ashlar {

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

void sync_folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const Descriptor file(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (file.get() >= 0) ::fsync(file.get());
}

}  // namespace ashlar
