// The requests that run, in a file that outlives this process: whoever starts next finds what each one's client had
// got.
//
// The file is mapped and shared, so that what was stored is there after kill -9 without a system call: the kernel has
// it. A power cut may take the last seconds of it; then open requests are not accounted for, while rows of the database
// are.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/limits/usage_record.h"

namespace ashlar::gateway {

// Any thread.
class Journal : public std::enable_shared_from_this<Journal> {
 public:
  struct Options {
    std::string folder;                         // which must be there
    std::string database;                       // only who writes to the same one takes the rows over
    std::uint32_t step = 4096, most = 1 << 18;  // slots: how many the file grows by, and has at most
  };
  using Slot = std::uint32_t;
  // A request is over and all who had to do with it have let go: its record, and the slot that holds it until free().
  using Ended = std::function<void(const UsageRecord&, Slot)>;

  // io: the file cannot be made, or there is no room for it.
  static Result<std::shared_ptr<Journal>> create(Options options, Ended ended);
  // Requests that are open outlive their journal's owner by sharing it. The file goes with the last of them, if no slot
  // of it is in use.
  ~Journal();

  // Null: no slot is free and the file cannot grow now.
  std::shared_ptr<OpenUsage> open(const UsageRecord& begun, const std::optional<Price>& price,
                                  std::span<const Measure> measures);
  // What ended in this slot. Nothing: it is torn.
  std::optional<UsageRecord> read(Slot slot) const;
  void free(Slot slot);
  // Nobody hears of ends any more: they stay in the file.
  void retire();

  std::size_t used() const;
  Status health() const;  // io: it cannot grow, and is full
  const std::string& path() const { return path_; }

 private:
  class Entry;
  friend class Entry;

  Journal(Options options, Ended ended);
  Status make();
  Status grow();
  std::byte* at(Slot slot) const;
  std::vector<Slot> take(std::size_t count);
  void ended(const UsageRecord& record, Slot slot);

  const Options options_;
  std::string path_;
  int fd_ = -1;
  mutable std::mutex mutex_;
  std::shared_ptr<const Ended> ended_;  // GUARDED_BY(mutex_)
  std::vector<Slot> free_;              // GUARDED_BY(mutex_); the last is used next
  std::uint32_t slots_ = 0;             // GUARDED_BY(mutex_)
  Status health_;                       // GUARDED_BY(mutex_)
  std::int64_t grow_again_ms_ = 0;      // GUARDED_BY(mutex_); after it failed
  // Mapped pieces of `step` slots; the list itself never moves, so that who has a slot reads it without the lock.
  const std::unique_ptr<std::byte*[]> pieces_;
};

}  // namespace ashlar::gateway
