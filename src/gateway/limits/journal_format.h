// The bytes of a journal of open requests (journal.h).
//
//   0      header     magic with the version, size of a slot, whose database; one page
//   4096   slots      512 bytes each
//
//   slot   seal        0: free. Else a checksum of what does not change, written last: a torn slot is known as such
//          delivered   tokens of the answer that left; OpenUsage::kAll: all
//          prompt      its tokens, and in the upper half those of them that were cached
//          end's seal  0: it runs. Else a checksum of the end, written after it
//          written     those that a cache was written with, and in the upper half those of them for an hour
//          end         what it used and cost, how it ended
//          fixed       when it began, its price, what its charges measure, the next slot with texts
//          texts       reservation, request, who, model, the client's id, tags: a u16 of length before each
//
//   further slot       seal (2), next, bytes; texts
//
// Version 1 knew nothing of what caches are written with, nor the client's id; version 2 no price of writes for an
// hour. What they left is read.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "gateway/limits/usage_record.h"

namespace ashlar::gateway {

struct JournalRow {
  // As it ended; or, of a request that was cut off, with the tokens that its client was sent, their price and
  // End::interrupted. Who got none pays for none, not for the prompt either.
  UsageRecord record;
  std::vector<Measure> measures;  // of its reservation's charges, in their order
  std::uint32_t also = 0;         // reservations beside it, also_id()
};

struct JournalText {
  std::string database;  // whose rows these are
  std::vector<JournalRow> rows;
  int torn = 0;  // slots that were being written, or are damaged
};
// The bytes of a whole file. corrupt: they are none; unsupported: of another version.
Result<JournalText> read_journal(std::string_view bytes);

namespace journal {

constexpr std::size_t kHeader = 4096, kSlot = 512;
constexpr std::size_t kLongestText = 512, kMostTags = 32, kLongestTag = 64;  // as rows of usage have them
constexpr std::uint64_t kFurther = 2;                                        // the seal of a slot of texts alone

struct EndOfOne {
  std::int64_t prompt, cached, completion, reasoning, cost, duration_ms;
  std::uint64_t how;  // 1 + UsageRecord::End
};
struct End : EndOfOne {
  std::int64_t written;
};

struct PriceOfOne {
  std::int64_t input, cached_input, output, reasoning;
};
struct PriceOfTwo {
  std::int64_t input, cached_input, cache_write, output, reasoning;
};

template <class AnyPrice>
struct FixedWith {
  std::int64_t begun_utc_ms;
  AnyPrice price;
  std::uint32_t text_bytes;  // in all slots
  std::uint32_t next;        // 1 + the slot where they go on; 0: none
  std::uint16_t priced, measures;
  std::array<std::uint8_t, store::kMostCharges> measure;
  std::uint32_t also;  // reservations beside its own; may grow while it runs, so no seal covers it
};

using Fixed = FixedWith<Price>;

struct Slot {
  std::atomic<std::uint64_t> seal, delivered, prompt, end_seal, written;
  End end;
  Fixed fixed;
  static constexpr std::size_t kTexts = kSlot - 40 - sizeof(End) - sizeof(Fixed);
  char texts[kTexts];
};
static_assert(sizeof(Slot) == kSlot && std::atomic<std::uint64_t>::is_always_lock_free);

struct SlotOfTwo {
  std::atomic<std::uint64_t> seal, delivered, prompt, end_seal, written;
  End end;
  FixedWith<PriceOfTwo> fixed;
  static constexpr std::size_t kTexts = kSlot - 40 - sizeof(end) - sizeof(fixed);
  char texts[kTexts];
};
static_assert(sizeof(SlotOfTwo) == kSlot);

struct SlotOfOne {
  std::atomic<std::uint64_t> seal, delivered, prompt, end_seal;
  EndOfOne end;
  FixedWith<PriceOfOne> fixed;
  static constexpr std::size_t kTexts = kSlot - 32 - sizeof(end) - sizeof(fixed);
  char texts[kTexts];
};
static_assert(sizeof(SlotOfOne) == kSlot);

struct Further {
  std::atomic<std::uint64_t> seal;
  std::uint32_t next, bytes;
  static constexpr std::size_t kTexts = kSlot - 16;
  char texts[kTexts];
};
static_assert(sizeof(Further) == kSlot);

struct Header {
  char magic[8];
  std::uint32_t slot_bytes, database_bytes;
  char database[kLongestText];
};
static_assert(sizeof(Header) <= kHeader);
inline constexpr int kVersion = 3;
Header header_of(const std::string& database);

// The texts of a record, cut as its row will be.
std::string texts_of(const UsageRecord& record);
// How many slots they take.
std::size_t slots_for(std::size_t text_bytes);

// Fills free slots, the first last. `slots` has as many as slots_for() says; `numbers` are theirs.
void write_open(std::span<std::byte* const> slots, std::span<const std::uint32_t> numbers, const UsageRecord& record,
                const std::string& texts, const std::optional<Price>& price, std::span<const Measure> measures);
void write_end(Slot& slot, const UsageRecord& record);

// Where a slot lies; null: there is none of that number.
using SlotAt = FunctionRef<const std::byte*(std::uint32_t)>;
// Nothing: it is free, torn, or holds further texts.
std::optional<JournalRow> read_slot(std::uint32_t number, SlotAt at, int version = kVersion);

}  // namespace journal
}  // namespace ashlar::gateway
