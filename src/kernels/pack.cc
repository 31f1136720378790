#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "fmt/format.h"
#include "kernels/blocks.h"
#include "kernels/matrix.h"

namespace ashlar::kernels {
namespace {

constexpr std::size_t kHugePage = 2u << 20;

std::size_t block_bytes(const Layout& layout) {
  return static_cast<std::size_t>(kLanes * layout.scale_bytes + 64 * layout.bits);
}

std::size_t header_bytes(const Layout& layout) { return layout.min ? 64 : 32; }

// One lane of a 4-bit plane takes 16 bytes, 4 for each group.
void place_nibbles(const std::uint8_t* codes, std::uint8_t* plane) {
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < 4; ++i)
      plane[64 * j + i] = static_cast<std::uint8_t>((codes[4 * j + i] & 15) | (codes[16 + 4 * j + i] & 15) << 4);
}

void place_pairs(const std::uint8_t* codes, int shift, std::uint8_t* plane) {
  for (int k = 0; k < kBlock; ++k)
    plane[64 * (k / 16) + k % 4] |= static_cast<std::uint8_t>((codes[k] >> shift & 3) << 2 * (k / 4 % 4));
}

void place_bits(const std::uint8_t* codes, int shift, std::uint8_t* plane) {
  for (int k = 0; k < kBlock; ++k) plane[k % 4] |= static_cast<std::uint8_t>((codes[k] >> shift & 1) << k / 4);
}

// 32 codes of one lane; `planes` points at the lane's first byte.
void place_codes(const std::uint8_t* codes, int bits, std::uint8_t* planes) {
  switch (bits) {
    case 8:
      for (int g = 0; g < 8; ++g) std::memcpy(planes + 64 * g, codes + 4 * g, 4);
      return;
    case 6: place_nibbles(codes, planes); return place_pairs(codes, 4, planes + 256);
    case 5: place_nibbles(codes, planes); return place_bits(codes, 4, planes + 256);
    case 4: return place_nibbles(codes, planes);
    case 3: place_pairs(codes, 0, planes); return place_bits(codes, 2, planes + 128);
    case 2: return place_pairs(codes, 0, planes);
    default: CHECK(false, "no such width of codes");
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

void pack_quantized(Type type, const std::byte* row, int lane, int units, std::uint8_t* tile) {
  const Layout& layout = kLayouts[format_of(type)];
  const std::size_t header = header_bytes(layout), block = block_bytes(layout);
  Parts parts;
  for (int u = 0; u < units; ++u, row += type_info(type).bytes) {
    take_apart(type, row, parts);
    std::memcpy(tile + 2 * lane, &parts.d, 2);
    if (layout.min) std::memcpy(tile + 32 + 2 * lane, &parts.dmin, 2);
    tile += header;
    for (int b = 0; b < layout.blocks; ++b, tile += block) {
      place_scales(layout, parts, b, lane, tile);
      place_codes(parts.codes + kBlock * b, layout.bits, tile + kLanes * layout.scale_bytes + 4 * lane);
    }
  }
}

void pack_floats(Type type, const std::byte* row, int lane, int columns, std::uint8_t* tile) {
  const std::size_t size = type == Type::f32 ? 4 : 2;
  for (int k = 0; k < columns; ++k) {
    const std::size_t at = type == Type::bf16 ? static_cast<std::size_t>(k / 2 * 32 + 2 * lane + k % 2)
                                              : static_cast<std::size_t>(k * kLanes + lane);
    std::memcpy(tile + size * at, row + size * static_cast<std::size_t>(k), size);
  }
}

PackedMatrix::Segment lay_out(const RawMatrix& raw, int first_row, std::size_t offset) {
  PackedMatrix::Segment segment{raw.type, first_row, raw.rows, 0, 0, offset};
  const TypeInfo& info = type_info(raw.type);
  if (info.block == 1) {
    segment.units = raw.type == Type::bf16 ? raw.columns + raw.columns % 2 : raw.columns;
    segment.tile_bytes = static_cast<std::size_t>(segment.units) * kLanes * static_cast<std::size_t>(info.bytes);
  } else {
    const Layout& layout = kLayouts[format_of(raw.type)];
    segment.units = raw.columns / info.block;
    segment.tile_bytes = static_cast<std::size_t>(segment.units) *
                         (header_bytes(layout) + static_cast<std::size_t>(layout.blocks) * block_bytes(layout));
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
  if (start == MAP_FAILED)
    return Error{Code::exhausted, fmt::format("{} MiB of memory cannot be had", bytes >> 20)};
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

Forms PackedMatrix::forms() const {
  Forms forms;
  for (const Segment& segment : segments_) (type_info(segment.type).block == 1 ? forms.floats : forms.quantized) = true;
  return forms;
}

Result<PackedMatrix> pack(std::span<const RawMatrix> stacked, ThreadPool& pool) {
  if (stacked.empty()) return Error{Code::invalid, "no matrix to pack"};
  PackedMatrix packed;
  packed.columns_ = stacked.front().columns;
  std::size_t bytes = 0;
  for (const RawMatrix& raw : stacked) {
    const TypeInfo& info = type_info(raw.type);
    if (raw.columns != packed.columns_)
      return Error{Code::invalid, fmt::format("stacked matrices have {} and {} columns", packed.columns_, raw.columns)};
    if (raw.columns < 1 || raw.rows < 1 || raw.columns % info.block != 0)
      return Error{Code::invalid, fmt::format("a matrix of {} x {} is not whole blocks of {} ({} elements)", raw.rows,
                                              raw.columns, info.name, info.block)};
    packed.segments_.push_back(lay_out(raw, packed.rows_, bytes));
    bytes = aligned(bytes + tiles(packed.segments_.back()) * packed.segments_.back().tile_bytes);
    packed.rows_ += raw.rows;
  }
  packed.memory_ = TRY(HugeMemory::allocate(bytes));
  for (std::size_t i = 0; i < stacked.size(); ++i) {
    const RawMatrix& raw = stacked[i];
    const PackedMatrix::Segment& segment = packed.segments_[i];
    pool.for_each(static_cast<int>(tiles(segment)), [&](int tile, int) {
      auto* out = reinterpret_cast<std::uint8_t*>(packed.memory_.data() + segment.offset) +
                  segment.tile_bytes * static_cast<std::size_t>(tile);
      for (int lane = 0; lane < std::min(kLanes, raw.rows - tile * kLanes); ++lane) {
        const std::byte* row = raw.data + row_bytes(raw.type, raw.columns) * static_cast<std::size_t>(tile * kLanes + lane);
        if (type_info(raw.type).block == 1)
          pack_floats(raw.type, row, lane, raw.columns, out);
        else
          pack_quantized(raw.type, row, lane, segment.units, out);
      }
    });
  }
  return packed;
}

}  // namespace ashlar::kernels
