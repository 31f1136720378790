#include "kernels/codebooks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/blocks.h"
#include "kernels/kernels.h"

namespace ashlar::kernels {
namespace {

constexpr int kMostBlocks = kInt8GroupColumns / kBlock;  // of a group

// A group of one weight row: its blocks' scales, and codes in the order of columns.
struct Group {
  int blocks = 0;
  std::array<float, kMostBlocks> scales;
  std::array<std::uint8_t, kMostBlocks> zeros;
  std::array<float, kMostBlocks> reach;  // of the code furthest from what is 0
  std::array<std::uint8_t, kMostBlocks * kBlock> codes;
};

// `blocks` from block `first` of a row on. Groups and blocks of the file begin and end together, or one within the
// other at whole blocks of 32.
void read_group(Type type, const std::byte* row, int first, int blocks, Group& group) {
  const Layout& layout = kLayouts[format_of(type)];
  const int in_unit = layout.blocks;
  Parts parts;
  for (int b = 0; b < blocks; ++b) {
    const int unit = (first + b) / in_unit, part = (first + b) % in_unit;
    if (b == 0 || part == 0) take_apart(type, row + static_cast<std::ptrdiff_t>(unit) * type_info(type).bytes, parts);
    const auto at = static_cast<std::size_t>(b);
    const float d = layout.wide ? parts.wide : f16_to_f32(parts.d);
    group.scales[at] = layout.scale_bytes == 0 ? d : d * static_cast<float>(parts.scales[part]);
    group.zeros[at] = layout.zero ? static_cast<std::uint8_t>((parts.zero + layout.offset) & 15) : 0;
    group.reach[at] = static_cast<float>(layout.zero          ? zero_reach(group.zeros[at])
                                         : layout.offset != 0 ? layout.offset
                                         : type == Type::nf4  ? kNf4Reach
                                                              : kIq4Reach);
    std::memcpy(group.codes.data() + kBlock * at, parts.codes + kBlock * part, kBlock);
  }
  group.blocks = blocks;
}

// The step of int8: 1/127 of the greatest weight that the group can hold. Not a number if a scale is not finite.
float step_of(const Group& group) {
  float most = 0;
  for (int b = 0; b < group.blocks; ++b) {
    const auto at = static_cast<std::size_t>(b);
    const float scale = group.scales[at];
    if (!std::isfinite(scale)) return std::numeric_limits<float>::quiet_NaN();
    most = std::max(most, std::abs(scale) * group.reach[at] * (1 / 127.0f));
  }
  return most;
}

// What the greatest code of a block becomes.
std::int8_t factor_of(float scale, float step, float reach) {
  if (!(step > 0)) return 0;
  const float factor = scale * (1 / step * reach);
  return std::isfinite(factor) ? static_cast<std::int8_t>(std::clamp(std::nearbyint(factor), -127.0f, 127.0f))
                               : std::int8_t{0};
}

// 32 codes of a weight row into its block.
void place(const std::uint8_t* codes, int lane, std::uint8_t* block) {
  std::uint8_t* out = block + lane % 4 * 64 + lane / 4 * 16;
  for (int i = 0; i < 16; ++i) out[i] = static_cast<std::uint8_t>(codes[i ^ 1] | codes[16 + (i ^ 1)] << 4);
}

// Of a group in memory.
struct Header {
  int shared, arrays;
  int bytes(int blocks) const { return codebook_header_bytes(blocks, shared, arrays); }
  int group_bytes(int blocks) const { return codebook_group_bytes(blocks, shared, arrays); }
};

Header header_of(Type type) {
  const Layout& layout = kLayouts[format_of(type)];
  return {.shared = layout.blocks == 2 ? 2 : 1, .arrays = layout.zero ? 2 : 1};
}

}  // namespace

ZeroBooks::ZeroBooks() {
  for (int zero = 0; zero < 16; ++zero)
    for (int factor = -128; factor < 128; ++factor)
      for (int code = 0; code < 16; ++code) {
        const double value = std::nearbyint(factor * (code - zero) / static_cast<double>(zero_reach(zero)));
        of[zero][factor + 128][code] = static_cast<std::uint8_t>(std::clamp(value, -127.0, 127.0) + 128);
      }
}

const ZeroBooks kZeroBooks;

bool by_codebooks(Type type, int columns) {
  return reads_tiles(type, columns) &&
         (type == Type::q4_0 || type == Type::iq4_nl || type == Type::iq4_xs || type == Type::u4z || type == Type::nf4);
}

std::size_t codebook_tile_bytes(Type type, int columns) {
  const Header header = header_of(type);
  const int blocks = columns / kBlock;
  return static_cast<std::size_t>(blocks / kMostBlocks * header.group_bytes(kMostBlocks) +
                                  header.group_bytes(blocks % kMostBlocks));
}

void pack_codebooks(const RawMatrix& raw, const std::byte* rows, int count, std::uint8_t* tile) {
  const Header header = header_of(raw.type);
  const int all = raw.columns / kBlock;
  Group group;
  for (int first = 0; first < all; first += kMostBlocks) {
    const int blocks = std::min(kMostBlocks, all - first);
    std::uint8_t *factors = tile + 4 * kLanes, *codes = tile + header.bytes(blocks);
    std::uint8_t* zeros = factors + kLanes * (blocks / header.shared);
    for (int lane = 0; lane < count; ++lane) {
      read_group(raw.type, rows + row_bytes(raw.type, raw.columns) * static_cast<std::size_t>(lane), first, blocks,
                 group);
      const float step = step_of(group);
      std::memcpy(tile + 4 * lane, &step, 4);
      for (int b = 0; b < blocks; ++b) {
        const auto at = static_cast<std::size_t>(b);
        const int place_of = kLanes * (b / header.shared) + lane;
        factors[place_of] = static_cast<std::uint8_t>(factor_of(group.scales[at], step, group.reach[at]));
        if (header.arrays == 2) zeros[place_of] = group.zeros[at];
        place(group.codes.data() + kBlock * at, lane, codes + 256 * b);
      }
    }
    tile += header.group_bytes(blocks);
  }
}

}  // namespace ashlar::kernels
