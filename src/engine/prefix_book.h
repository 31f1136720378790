// What a KvCache has noted of prompts' beginnings, for those who do not stand on the engine's thread.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "engine/prefixes.h"

namespace ashlar::engine {

// One note for each block of the cache at most, so that its size is the cache's and it never forgets by itself. All
// memory is taken at the beginning.
class PrefixBook final : public CachedPrefixes {
 public:
  explicit PrefixBook(int blocks);

  struct Note {
    int block = 0;
    std::uint64_t key = 0;
    int tokens = 0;  // 0: nothing stands at the block any more
  };
  // The cache's thread. false: somebody reads just now, nothing was written; not if `wait`.
  bool write(std::span<const Note> notes, bool wait);

  int cached(std::span<const std::uint64_t> keys) const override;
  std::size_t size() const override;
  News news(std::uint64_t book, std::uint64_t sequence, std::size_t most) const override;

 private:
  struct Entry {
    std::uint64_t key = 0;
    int tokens = 0;  // 0: none
    int next = -1;   // of its bucket
  };
  int& bucket(std::uint64_t key) { return buckets_[key & (buckets_.size() - 1)]; }
  void clear(int block);
  void log(Change change) { changes_[sequence_++ % changes_.size()] = change; }

  const std::uint64_t number_;
  mutable std::mutex mutex_;     // held for the notes of a step, or a few keys
  std::vector<Entry> entries_;   // by block; GUARDED_BY(mutex_), as is the rest
  std::vector<int> buckets_;     // the first block of each
  std::vector<Change> changes_;  // the last ones, as a ring
  std::uint64_t sequence_ = 0;
  std::size_t size_ = 0;
};

}  // namespace ashlar::engine
