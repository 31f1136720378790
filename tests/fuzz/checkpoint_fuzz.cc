// Any bytes as a quantized checkpoint: u32 bytes of config.json, that, then a safetensors file. An error, or matrices
// whose rows can be written.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "models/formats/quantized_checkpoint.h"

namespace {

using namespace ashlar;
using namespace ashlar::models;

constexpr std::int64_t kMostElements = 1 << 20;

void require(bool holds) {
  if (!holds) std::abort();
}

// A file that exists in memory alone.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    require(fd_ >= 0 && ::write(fd_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

void make_rows(const QuantizedMatrix& matrix) {
  require(matrix.rows > 0 && matrix.columns > 0);
  for (const std::int32_t column : matrix.order) require(column >= 0 && column < matrix.columns);
  require(matrix.order.empty() || matrix.order.size() == static_cast<std::size_t>(matrix.columns));
  if (matrix.rows > kMostElements / matrix.columns) return;
  std::vector<std::byte> room(kernels::row_bytes(matrix.type, matrix.columns) * static_cast<std::size_t>(matrix.rows));
  if (const auto made = matrix.make(room); !made) require(!made.error().message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::uint32_t config_bytes = 0;
  if (size < sizeof config_bytes) return 0;
  std::memcpy(&config_bytes, data, sizeof config_bytes);
  std::string_view rest(reinterpret_cast<const char*>(data) + sizeof config_bytes, size - sizeof config_bytes);
  if (config_bytes > rest.size()) return 0;
  const auto config = read_quantization_config(rest.substr(0, config_bytes), "", "", "fuzz");
  if (!config) return require(!config.error().message.empty()), 0;
  if (!*config) return 0;
  const MemoryFile file(rest.substr(config_bytes));
  const auto weights = safetensors::Checkpoint::open(file.path());
  if (!weights) return 0;
  for (const RowsFor whom : {RowsFor::products, RowsFor::gguf}) {
    const auto found = read_quantized_checkpoint(*weights, **config, whom);
    if (!found) {
      require(!found.error().message.empty());
      continue;
    }
    for (const QuantizedMatrix& matrix : found->matrices) make_rows(matrix);
  }
  return 0;
}
