// A folder where packed weights are kept from one start to the next, a file for
// each model. What is wrong with it never stops a model from being served: it
// only starts slower.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/bytes.h"
#include "base/result.h"
#include "base/threads.h"
#include "models/formats/gguf.h"
#include "models/packed_image.h"

namespace ashlar::models {

struct PackedCacheOptions {
  std::string packed_cache = "auto";
  Bytes packed_cache_size{20_GiB};
  void fields(auto&& field) {
    field("packed_cache", packed_cache,
          "Folder where weights are kept as the kernels read them, for the next start; off: none. auto: $ASHLAR_CACHE, "
          "else $XDG_CACHE_HOME/ashlar, else ~/.cache/ashlar.");
    field("packed_cache_size", packed_cache_size,
          "Most that the kept weights take; those unused for longest make room.");
  }
};

// Immutable; any thread, any number of processes.
class PackedCache {
 public:
  // nullopt: it is off, or no folder is known.
  static std::optional<PackedCache> from(const PackedCacheOptions& options);

  // Models of fewer than `least` packed bytes are not worth a file.
  explicit PackedCache(std::string folder, Bytes most = 20_GiB, Bytes least = 64_MiB)
      : folder_(std::move(folder)), most_(most), least_(least) {}

  // Tells this state of the model's files, this layout of packed weights, and
  // nothing else. nullopt: a file in memory.
  static std::optional<PackedKey> key(const gguf::File& file);

  // Where a model's weights are kept.
  std::string path(const gguf::File& file, const PackedKey& key) const;

  // nullptr: they are not kept, or the file is broken, which is logged and the file removed.
  std::shared_ptr<PackedImage> find(const std::string& path, const PackedKey& key,
                                    std::span<const std::size_t> sections, ThreadPool& pool) const;

  // Whether so many bytes shall be kept at all.
  bool wants(Bytes bytes) const { return bytes >= least_ && bytes <= most_; }

  // Keeps a sealed image: written aside, synced, renamed; what an older state of
  // the same model left, and what is unused for longest, makes room. Failing leaves
  // nothing behind. cancelled: `stopped` said so, or somebody else is writing it;
  // exhausted: less than twice its size is free; io: the folder or the disk refuses.
  Status keep(const std::string& path, const PackedImage& image, FunctionRef<bool()> stopped) const;

 private:
  Status make_room(const std::string& path, std::uint64_t bytes) const;

  std::string folder_;
  Bytes most_, least_;
};

// Keeps an image on a thread of its own, at low priority, and logs what came of
// it. When it is destroyed the writing gets a short time to end.
class PackedKeeper {
 public:
  PackedKeeper(PackedCache cache, std::string path, std::shared_ptr<const PackedImage> image);
  ~PackedKeeper();

 private:
  std::jthread thread_;
};

}  // namespace ashlar::models
