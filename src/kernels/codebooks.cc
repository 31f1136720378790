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

constexpr int kGroupBlocks = kInt8GroupColumns / kBlock;  // of a group
constexpr int kMostZero = 16;

// A group of one weight row: its blocks' scales, and codes in the order of columns.
struct Group {
  int blocks = 0;
  std::array<float, kGroupBlocks> scales;
  std::array<int, kGroupBlocks> zeros;  // of types that have them
  std::array<std::uint8_t, kGroupBlocks * kBlock> codes;
};

// `blocks` from block `first` of a row on. Groups and blocks of the file begin and end together, or one within the
// other at whole blocks of 32.
void read_group(Type type, const std::byte* row, int first, int blocks, Group& group) {
  const Layout& layout = kLayouts[format_of(type)];
  Parts parts;
  for (int b = 0; b < blocks; ++b) {
    const int unit = (first + b) / layout.blocks, part = (first + b) % layout.blocks;
    if (b == 0 || part == 0) take_apart(type, row + static_cast<std::ptrdiff_t>(unit) * type_info(type).bytes, parts);
    const auto at = static_cast<std::size_t>(b);
    const float d = layout.wide ? parts.wide : f16_to_f32(parts.d);
    group.scales[at] = layout.scale_bytes == 0 ? d : d * static_cast<float>(parts.scales[part]);
    group.zeros[at] = layout.zero ? parts.zero + layout.offset : layout.offset;
    std::memcpy(group.codes.data() + kBlock * at, parts.codes + kBlock * part, kBlock);
  }
  group.blocks = blocks;
}

// What codes stand for, at most.
struct Reach {
  bool zero;
  int fixed;      // without zeros; with them what a factor counts in
  int top = 127;  // what the greatest becomes in int8; of MXFP4 so that smaller powers of two stay exact

  explicit Reach(Type type) {
    const Layout& layout = kLayouts[format_of(type)];
    zero = layout.zero;
    fixed = layout.table == nullptr     ? 8
            : layout.table == kNf4Table ? static_cast<int>(kNf4Reach)
            : layout.table == kFp4Table ? kFp4Reach
                                        : kIq4Reach;
    if (layout.table == kFp4Table) top = 8 * kFp4Reach;
  }
  float of(const Group& group, std::size_t block) const {
    return static_cast<float>(zero ? std::max(group.zeros[block], 15 - group.zeros[block]) : fixed);
  }
};

// The step of int8: 1/127 (of MXFP4 1/96) of the greatest weight that the group can hold. Not a number if a scale is
// not finite, or a zero not among the codes and the one after them.
float step_of(const Group& group, const Reach& reach) {
  float most = 0;
  for (std::size_t b = 0; b < static_cast<std::size_t>(group.blocks); ++b) {
    if (!std::isfinite(group.scales[b]) || group.zeros[b] < 0 || group.zeros[b] > kMostZero)
      return std::numeric_limits<float>::quiet_NaN();
    most = std::max(most, std::abs(group.scales[b]) * reach.of(group, b) * (1.0f / static_cast<float>(reach.top)));
  }
  return most;
}

// What the reach of a block becomes.
std::int8_t factor_of(float scale, float step, const Reach& reach) {
  if (!(step > 0)) return 0;
  const float factor = scale * (1 / step * static_cast<float>(reach.fixed));
  return std::isfinite(factor) ? static_cast<std::int8_t>(std::clamp(std::nearbyint(factor), -127.0f, 127.0f))
                               : std::int8_t{0};
}

// 32 codes of a weight row into its block.
void place(const std::uint8_t* codes, int lane, std::uint8_t* block) {
  std::uint8_t* out = block + lane % 4 * 64 + lane / 4 * 16;
  for (int i = 0; i < 16; ++i) out[i] = static_cast<std::uint8_t>(codes[i ^ 1] | codes[16 + (i ^ 1)] << 4);
}

}  // namespace

bool by_codebooks(Type type, int columns) {
  return reads_tiles(type, columns) && kLayouts[format_of(type)].bits == 4 && !kLayouts[format_of(type)].min;
}

std::size_t codebook_tile_bytes(int columns) {
  const int blocks = columns / kBlock;
  return static_cast<std::size_t>(blocks / kGroupBlocks * codebook_group_bytes(kGroupBlocks) +
                                  codebook_group_bytes(blocks % kGroupBlocks));
}

void pack_codebooks(const RawMatrix& raw, const std::byte* rows, int count, std::uint8_t* tile) {
  const Reach reach(raw.type);
  const int all = raw.columns / kBlock;
  Group group;
  for (int first = 0; first < all; first += kGroupBlocks) {
    const int blocks = std::min(kGroupBlocks, all - first);
    std::uint8_t *factors = tile + 4 * kLanes, *codes = tile + codebook_header_bytes(blocks);
    for (int lane = 0; lane < count; ++lane) {
      read_group(raw.type, rows + row_bytes(raw.type, raw.columns) * static_cast<std::size_t>(lane), first, blocks,
                 group);
      const float step = step_of(group, reach);
      std::memcpy(tile + 4 * lane, &step, 4);
      for (int b = 0; b < blocks; ++b) {
        const auto at = static_cast<std::size_t>(b);
        factors[kLanes * b + lane] = reach.zero && b % 2 != 0
                                         ? static_cast<std::uint8_t>(kMostZero - group.zeros[at])
                                         : static_cast<std::uint8_t>(factor_of(group.scales[at], step, reach));
        place(group.codes.data() + kBlock * at, lane, codes + 256 * b);
      }
    }
    tile += codebook_group_bytes(blocks);
  }
}

}  // namespace ashlar::kernels
