#include "cli/default_model.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

extern "C" const char ashlar_default_model_begin[];
extern "C" const char ashlar_default_model_end[];

namespace ashlar::cli {

Result<std::string> default_model_path() {
  static std::string path;  // main thread alone
  if (!path.empty()) return path;
  const int file = ::memfd_create("ashlar-assistant.gguf", MFD_CLOEXEC);
  if (file < 0) return Error{Code::io, fmt::format("the embedded model cannot be opened: {}", std::strerror(errno))};
  for (const char* at = ashlar_default_model_begin; at < ashlar_default_model_end;) {
    const ssize_t n = ::write(file, at, static_cast<std::size_t>(ashlar_default_model_end - at));
    if (n <= 0) {
      const int reason = errno;
      ::close(file);
      return Error{Code::io, fmt::format("the embedded model cannot be opened: {}", std::strerror(reason))};
    }
    at += n;
  }
  path = fmt::format("/proc/self/fd/{}", file);
  return path;
}

}  // namespace ashlar::cli
