// Writes GGUF version 3 files: for tests, and for models that we make ourselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kernels/types.h"
#include "models/formats/gguf.h"

namespace ashlar::models::gguf {

// Collects keys and tensors, then writes them all. Plain data; one thread.
class Writer {
 public:
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::uint32_t value);
  void add(std::string_view key, std::int32_t value);
  void add(std::string_view key, std::uint16_t value);
  void add(std::string_view key, std::uint64_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, std::span<const std::string> value);
  void add(std::string_view key, std::span<const float> value);
  void add(std::string_view key, std::span<const std::int32_t> value);
  void add(std::string_view key, const Value& value);  // as it was read from another file

  // `dims` innermost first. The data is kept, not copied: it must outlive write().
  void add_tensor(std::string_view name, kernels::Type type, std::vector<std::int64_t> dims,
                  std::span<const std::byte> data);

  // The same for data too large to stand around: `produce` is called when its
  // turn comes and gives `size` bytes, which stay valid until the next call.
  using Produce = std::function<Result<std::span<const std::byte>>()>;
  void add_tensor(std::string_view name, kernels::Type type, std::vector<std::int64_t> dims, std::uint64_t size,
                  Produce produce);

  // The file from its first byte to its last, piece by piece. Errors: those of `put` and of producers.
  Status give(const std::function<Status(std::string_view)>& put) const;
  // The file's bytes. Errors: those of a producer.
  Result<std::string> bytes() const;
  // io: the file cannot be written.
  Status write(const std::string& path) const;
  // As `count` files PREFIX-00001-of-0000N.gguf, the keys in the first, the
  // tensors dealt out in order. io: a file cannot be written.
  Status write_split(const std::string& prefix, int count) const;

 private:
  struct Pending {
    std::string name;
    kernels::Type type;
    std::vector<std::int64_t> dims;
    std::uint64_t size;
    Produce produce;
  };
  std::string head() const;  // everything before the tensors' data
  std::string& key(std::string_view name, ValueType type);

  std::string keys_;
  std::uint64_t key_count_ = 0;
  std::vector<Pending> tensors_;
};

}  // namespace ashlar::models::gguf
