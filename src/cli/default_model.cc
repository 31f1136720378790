#include "cli/default_model.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/descriptor.h"

extern "C" const char ashlar_default_model_begin[];
extern "C" const char ashlar_default_model_end[];

namespace ashlar::cli {

Result<std::string> default_model_path() {
  static std::string path;  // one thread at a time: a server that starts, or that reads its configuration
  if (!path.empty()) return path;
  const auto failed = [] {
    return Error{Code::io, fmt::format("the embedded model cannot be opened: {}", std::strerror(errno))};
  };
  const int file = ::memfd_create("ashlar-assistant.gguf", MFD_CLOEXEC);
  if (file < 0) return failed();
  if (!write_all(file, {ashlar_default_model_begin, ashlar_default_model_end})) {
    Error error = failed();
    ::close(file);
    return error;
  }
  path = fmt::format("/proc/self/fd/{}", file);
  return path;
}

}  // namespace ashlar::cli
