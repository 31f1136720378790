#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>
#include "kernels/blocks.h"
#include "kernels/codebooks.h"
#include "kernels/matrix.h"

namespace ashlar::kernels {
namespace {

constexpr std::size_t kHugePage = 2u << 20;

std::size_t block_bytes(const Layout& layout) {
  return static_cast<std::size_t>(kLanes * layout.scale_bytes + 64 * layout.bits);
}

// The codes of 4 consecutive elements, a byte each: what one lane has in a group.
using Group = std::uint32_t;

Group each_byte(Group value) { return value * 0x01010101u; }

void put(std::uint8_t* plane, int group, Group value) { std::memcpy(plane + 64 * group, &value, 4); }

void place_nibbles(const Group (&c)[8], std::uint8_t* plane) {
  for (int j = 0; j < 4; ++j) put(plane, j, (c[j] & each_byte(15)) | (c[j + 4] & each_byte(15)) << 4);
}

void place_pairs(const Group (&c)[8], int shift, std::uint8_t* plane) {
  for (int h = 0; h < 2; ++h) {
    Group value = 0;
    for (int f = 0; f < 4; ++f) value |= (c[4 * h + f] >> shift & each_byte(3)) << 2 * f;
    put(plane, h, value);
  }
}

void place_bits(const Group (&c)[8], int shift, std::uint8_t* plane) {
  Group value = 0;
  for (int g = 0; g < 8; ++g) value |= (c[g] >> shift & each_byte(1)) << g;
  put(plane, 0, value);
}

// 32 codes of one lane; `planes` points at the lane's first byte.
void place_codes(const std::uint8_t* codes, int bits, std::uint8_t* planes) {
  Group c[8];
  std::memcpy(c, codes, sizeof c);
  switch (bits) {
    case 8:
      for (int g = 0; g < 8; ++g) put(planes, g, c[g]);
      return;
    case 6:
      place_nibbles(c, planes);
      return place_pairs(c, 4, planes + 256);
    case 5:
      place_nibbles(c, planes);
      return place_bits(c, 4, planes + 256);
    case 4:
      return place_nibbles(c, planes);
    case 3:
      place_pairs(c, 0, planes);
      return place_bits(c, 2, planes + 128);
    case 2:
      return place_pairs(c, 0, planes);
    default:
      CHECK(false, "no such width of codes");
  }
}

void place_scales(const Layout& layout, const Parts& parts, int block, int lane, std::uint8_t* out) {
  if (layout.scale_bytes == 0) return;
  const int first = block * layout.subs;
  if (layout.subs == 2 && layout.min) {  // Q2_K
    for (int h = 0; h < 2; ++h)
      out[kLanes * h + lane] = static_cast<std::uint8_t>(parts.scales[first + h] | parts.mins[first + h] << 4);
    return;
  }
  for (int h = 0; h < layout.subs; ++h) out[kLanes * h + lane] = static_cast<std::uint8_t>(parts.scales[first + h]);
  if (layout.min) out[kLanes + lane] = parts.mins[first];
}

// One block of the file into one lane of a unit.
void place_block(Type type, const Layout& layout, const std::byte* block, int lane, std::uint8_t* unit) {
  Parts parts;
  take_apart(type, block, parts);
  layout.wide ? std::memcpy(unit + 4 * lane, &parts.wide, 4) : std::memcpy(unit + 2 * lane, &parts.d, 2);
  if (layout.zero) std::memcpy(unit + 32 + lane, &parts.zero, 1);
  if (layout.min) std::memcpy(unit + 32 + 2 * lane, &parts.dmin, 2);
  unit += header_bytes(layout);
  for (int b = 0; b < layout.blocks; ++b, unit += block_bytes(layout)) {
    place_scales(layout, parts, b, lane, unit);
    place_codes(parts.codes + kBlock * b, layout.bits, unit + kLanes * layout.scale_bytes + 4 * lane);
  }
}

// Up to 16 rows, unit by unit so that what is written stays near.
void pack_quantized(const RawMatrix& raw, const std::byte* rows, int count, int units, std::uint8_t* tile) {
  const Layout& layout = kLayouts[format_of(raw.type)];
  const std::size_t stride = row_bytes(raw.type, raw.columns),
                    block = static_cast<std::size_t>(type_info(raw.type).bytes);
  const std::size_t unit =
      static_cast<std::size_t>(header_bytes(layout)) + static_cast<std::size_t>(layout.blocks) * block_bytes(layout);
  for (int u = 0; u < units; ++u, rows += block, tile += unit)
    for (int lane = 0; lane < count; ++lane)
      place_block(raw.type, layout, rows + stride * static_cast<std::size_t>(lane), lane, tile);
}

// Words of type W: one column of F32 or F16, a pair of columns of BF16.
template <class W>
void interleave(const std::byte* rows, std::size_t stride, int count, std::size_t words, std::uint8_t* tile) {
  constexpr std::size_t kPiece = 64;
  for (std::size_t first = 0; first < words; first += kPiece)
    for (std::size_t lane = 0; lane < static_cast<std::size_t>(count); ++lane) {
      const std::byte* row = rows + stride * lane;
      for (std::size_t i = first; i < std::min(words, first + kPiece); ++i)
        std::memcpy(tile + sizeof(W) * (kLanes * i + lane), row + sizeof(W) * i, sizeof(W));
    }
}

void pack_floats(const RawMatrix& raw, const std::byte* rows, int count, std::uint8_t* tile) {
  const std::size_t stride = row_bytes(raw.type, raw.columns);
  const auto columns = static_cast<std::size_t>(raw.columns);
  if (raw.type == Type::f32) return interleave<std::uint32_t>(rows, stride, count, columns, tile);
  if (raw.type == Type::f16) return interleave<std::uint16_t>(rows, stride, count, columns, tile);
  interleave<std::uint32_t>(rows, stride, count, columns / 2, tile);
  if (columns % 2 != 0)
    for (std::size_t lane = 0; lane < static_cast<std::size_t>(count); ++lane)
      std::memcpy(tile + 4 * (kLanes * (columns / 2) + lane), rows + stride * lane + 2 * (columns - 1), 2);
}

PackedMatrix::Segment lay_out(const RawMatrix& raw, int first_row, std::size_t offset) {
  PackedMatrix::Segment segment{raw.type, first_row, raw.rows, 0, 0, offset, false};
  const TypeInfo& info = type_info(raw.type);
  if (info.block == 1) {
    segment.units = raw.type == Type::bf16 ? raw.columns + raw.columns % 2 : raw.columns;
    segment.tile_bytes = static_cast<std::size_t>(segment.units) * kLanes * static_cast<std::size_t>(info.bytes);
  } else {
    const Layout& layout = kLayouts[format_of(raw.type)];
    segment.units = raw.columns / info.block;
    segment.codebooks = by_codebooks(raw.type, raw.columns);
    segment.tile_bytes = segment.codebooks ? codebook_tile_bytes(raw.columns)
                                           : static_cast<std::size_t>(segment.units) *
                                                 (static_cast<std::size_t>(header_bytes(layout)) +
                                                  static_cast<std::size_t>(layout.blocks) * block_bytes(layout));
  }
  return segment;
}

std::size_t tiles(const PackedMatrix::Segment& segment) {
  return (static_cast<std::size_t>(segment.rows) + kLanes - 1) / kLanes;
}

std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

Result<HugeMemory> HugeMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return HugeMemory{};
  const bool huge = bytes >= kHugePage / 2;
  const std::size_t size = huge ? (bytes + kHugePage - 1) / kHugePage * kHugePage : aligned(bytes);
  const std::size_t asked = huge ? size + kHugePage : size;
  void* start = mmap(nullptr, asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return Error{Code::exhausted, fmt::format("{} MiB of memory cannot be had", bytes >> 20)};
  auto* p = static_cast<std::byte*>(start);
  if (huge) {  // trim to the boundary of a large page
    const std::size_t before = (kHugePage - reinterpret_cast<std::uintptr_t>(p) % kHugePage) % kHugePage;
    if (before > 0) munmap(p, before);
    p += before;
    if (kHugePage - before > 0) munmap(p + size, kHugePage - before);
    madvise(p, size, MADV_HUGEPAGE);  // a wish: without it the memory is only slower
  }
  return HugeMemory(p, size);
}

void HugeMemory::Unmap::operator()(std::byte* p) const { munmap(p, bytes); }

// A matrix laid out, its bytes still to come.
struct PackedPlan {
  PackedMatrix matrix;
  std::size_t bytes = 0;

  static Result<PackedPlan> make(std::span<const RawMatrix> stacked) {
    if (stacked.empty()) return Error{Code::invalid, "no matrix to pack"};
    PackedPlan plan;
    PackedMatrix& packed = plan.matrix;
    packed.columns_ = stacked.front().columns;
    for (const RawMatrix& raw : stacked) {
      const TypeInfo& info = type_info(raw.type);
      if (raw.columns != packed.columns_)
        return Error{Code::invalid,
                     fmt::format("stacked matrices have {} and {} columns", packed.columns_, raw.columns)};
      if (raw.columns < 1 || raw.rows < 1 || raw.columns % info.block != 0)
        return Error{Code::invalid, fmt::format("a matrix of {} x {} is not whole blocks of {} ({} elements)", raw.rows,
                                                raw.columns, info.name, info.block)};
      packed.segments_.push_back(lay_out(raw, packed.rows_, plan.bytes));
      plan.bytes = aligned(plan.bytes + tiles(packed.segments_.back()) * packed.segments_.back().tile_bytes);
      packed.rows_ += raw.rows;
    }
    return plan;
  }

  Result<PackedMatrix> with(std::span<const std::byte> room, std::shared_ptr<const void> owner) && {
    if (room.size() != bytes || reinterpret_cast<std::uintptr_t>(room.data()) % 64 != 0)
      return Error{Code::invalid, fmt::format("{} bytes for a packed matrix of {}", room.size(), bytes)};
    matrix.bytes_ = room;
    matrix.owner_ = std::move(owner);
    return std::move(matrix);
  }
};

Result<std::size_t> packed_bytes(std::span<const RawMatrix> stacked) { return TRY(PackedPlan::make(stacked)).bytes; }

Result<PackedMatrix> adopt(std::span<const RawMatrix> stacked, std::span<const std::byte> packed,
                           std::shared_ptr<const void> owner) {
  return TRY(PackedPlan::make(stacked)).with(packed, std::move(owner));
}

Result<PackedMatrix> pack_into(std::span<const RawMatrix> stacked, std::span<std::byte> room,
                               std::shared_ptr<const void> owner, ThreadPool& pool) {
  PackedMatrix packed = TRY(adopt(stacked, room, std::move(owner)));
  for (std::size_t i = 0; i < stacked.size(); ++i) {
    const RawMatrix& raw = stacked[i];
    const PackedMatrix::Segment& segment = packed.segments()[i];
    pool.for_each(static_cast<int>(tiles(segment)), [&](int tile, int) {
      auto* out = reinterpret_cast<std::uint8_t*>(room.data() + segment.offset) +
                  segment.tile_bytes * static_cast<std::size_t>(tile);
      const std::byte* rows = raw.data + row_bytes(raw.type, raw.columns) * static_cast<std::size_t>(tile * kLanes);
      const int count = std::min(kLanes, raw.rows - tile * kLanes);
      if (type_info(raw.type).block == 1)
        pack_floats(raw, rows, count, out);
      else if (segment.codebooks)
        pack_codebooks(raw, rows, count, out);
      else
        pack_quantized(raw, rows, count, segment.units, out);
    });
  }
  return packed;
}

Result<PackedMatrix> pack(std::span<const RawMatrix> stacked, ThreadPool& pool) {
  const std::size_t bytes = TRY(packed_bytes(stacked));
  auto memory = std::make_shared<HugeMemory>(TRY(HugeMemory::allocate(bytes)));
  const std::span<std::byte> room(memory->data(), bytes);
  return pack_into(stacked, room, std::move(memory), pool);
}

}  // namespace ashlar::kernels
