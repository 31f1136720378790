// The packed weights of a whole model as one piece of memory: filled by packing,
// or by what an earlier start kept in a file. Memory and file hold the same bytes:
//
//   0   "ASHPACK\n"
//   8   u32 format, u32 sections
//   16  u64 bytes in all
//   24  u64 key[2]            whose weights these are
//   40  u64 sample            a sum over one cache line of each page of the sections
//   48  u64 check             a sum over the header without this field
//   56  u64 bytes[sections]
//   padding to 4096, then the sections, each padded to 4096
//
// The file is hostile: sizes are taken from the model, and a header that does not
// say the very same is refused. What the sections hold is only summed by samples,
// so that a page that never reached the disk is noticed; kernels stay within their
// matrices whatever the bytes are.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "kernels/matrix.h"

namespace ashlar::models {

using PackedKey = std::array<std::uint64_t, 2>;

// A sum of bytes that tells accidents, not enemies. Also of several pieces, one after the other.
class Digest {
 public:
  void add(std::span<const std::byte> bytes);
  void add(std::uint64_t number);
  PackedKey value() const;

 private:
  std::array<std::uint64_t, 4> lanes_{0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5};
};

struct PackedHeader {
  PackedKey key{};
  std::uint64_t sample = 0;
  std::vector<std::uint64_t> sections;  // bytes of each
};

// The header at the front of a file of `file_bytes`; `front` is its beginning, as
// much of it as there is. corrupt: one sentence.
Result<PackedHeader> parse_packed_header(std::span<const std::byte> front, std::uint64_t file_bytes);

// What the header that begins with these 56 bytes and this table must hold as its check.
std::uint64_t packed_header_check(std::span<const std::byte, 56> front, std::span<const std::byte> table);

class PackedImage {
 public:
  enum class Origin {
    fresh,   // zeros, to be filled
    mapped,  // the file's own pages, 2 MiB each, shared with whoever maps it too
    copied   // read from the file into pages of 2 MiB
  };

  // exhausted: no memory.
  static Result<std::shared_ptr<PackedImage>> allocate(std::span<const std::size_t> sections);

  // The file that write() made for `key` and the same sections. Maps it if the
  // system keeps it in pages of 2 MiB, else reads it, on all threads.
  // not_found, io; corrupt: cut short, changed, of another key, or another user's.
  static Result<std::shared_ptr<PackedImage>> open(const std::string& path, const PackedKey& key,
                                                   std::span<const std::size_t> sections, ThreadPool& pool);
  ~PackedImage();
  PackedImage(const PackedImage&) = delete;
  PackedImage& operator=(const PackedImage&) = delete;

  Origin origin() const { return origin_; }
  std::span<const std::byte> bytes() const { return {data_, bytes_}; }
  std::size_t sections() const { return sections_.size(); }
  std::span<const std::byte> section(std::size_t index) const;
  // Of a fresh image.
  std::span<std::byte> room(std::size_t index);

  // Writes the header of a fresh image whose sections are filled. Nothing changes afterwards.
  void seal(const PackedKey& key, ThreadPool& pool);

 private:
  struct Place {
    std::size_t offset, bytes;
  };
  PackedImage() = default;
  void place(std::span<const std::size_t> sections);
  Status map(int fd);
  Status copy(int fd, const std::string& path, ThreadPool& pool);
  bool on_large_pages() const;
  std::uint64_t sample(ThreadPool& pool) const;

  Origin origin_ = Origin::fresh;
  std::vector<Place> sections_;
  std::size_t front_ = 0;  // bytes before the first section
  std::size_t bytes_ = 0;
  const std::byte* data_ = nullptr;
  kernels::HugeMemory memory_;  // unless mapped
  void* mapping_ = nullptr;
};

}  // namespace ashlar::models
