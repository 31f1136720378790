// Writes safetensors: one file, or the shards of a folder and their index.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "models/formats/new_folder.h"
#include "models/formats/safetensors.h"

namespace ashlar::models::safetensors {

// Collects tensors, then writes them in this order. Plain data; one thread.
class Writer {
 public:
  // Called when the tensor's turn comes; gives all its bytes, valid until the next call.
  using Produce = std::function<Result<std::span<const std::byte>>()>;
  using Put = std::function<Status(std::string_view)>;

  void add(std::string name, Type type, std::vector<std::int64_t> shape, Produce produce);
  // The header's "__metadata__" of every file.
  void add_metadata(std::string key, std::string text) { metadata_.emplace_back(std::move(key), std::move(text)); }

  std::uint64_t bytes() const;  // of all tensors
  std::size_t tensors() const { return tensors_.size(); }

  // All as one file, from its first byte to its last. Errors: those of `put` and of producers.
  Status give(const Put& put) const;

  // model.safetensors; or, where that has more than `most` bytes, model-00001-of-0000N.safetensors and so on of at
  // most so many each (or one tensor), and their index. `watch` stands between pieces of a few megabytes: an error
  // stops the work.
  Status write(NewFolder& folder, std::uint64_t most, const std::function<Status()>& watch) const;

 private:
  struct Pending {
    std::string name;
    Type type;
    std::vector<std::int64_t> shape;
    std::uint64_t size;
    Produce produce;
  };
  Status give(std::span<const Pending> tensors, const Put& put) const;

  std::vector<Pending> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
};

}  // namespace ashlar::models::safetensors
