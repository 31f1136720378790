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

constexpr int kMostBlocks = 2 * kInt8MostTiles;  // of a group

// A group of one weight row: its blocks' scales, and codes in the order of columns.
struct Group {
  int blocks = 0;
  std::array<float, kMostBlocks> scales;
  std::array<std::uint8_t, kMostBlocks * kBlock> codes;
};

// `blocks` from block `first` of a row on. Groups and blocks of the file begin and end together, or one within the
// other at whole blocks of 32.
void read_group(Type type, const std::byte* row, int first, int blocks, Group& group) {
  const int in_unit = kLayouts[format_of(type)].blocks;
  Parts parts;
  for (int b = 0; b < blocks; ++b) {
    const int unit = (first + b) / in_unit, part = (first + b) % in_unit;
    if (b == 0 || part == 0) take_apart(type, row + static_cast<std::ptrdiff_t>(unit) * type_info(type).bytes, parts);
    const auto at = static_cast<std::size_t>(b);
    const float d = f16_to_f32(parts.d);
    group.scales[at] = in_unit == 1 ? d : d * static_cast<float>(parts.scales[part]);
    std::memcpy(group.codes.data() + kBlock * at, parts.codes + kBlock * part, kBlock);
  }
  group.blocks = blocks;
}

// The step of int8: 1/127 of the greatest weight that the group can hold. Not a number if a scale is not finite.
float step_of(const Group& group, float offset) {
  float most = 0;
  for (int b = 0; b < group.blocks; ++b) {
    const float scale = group.scales[static_cast<std::size_t>(b)];
    if (!std::isfinite(scale)) return std::numeric_limits<float>::quiet_NaN();
    most = std::max(most, std::abs(scale) * offset * (1 / 127.0f));
  }
  return most;
}

// What the greatest code of a block becomes.
std::int8_t factor_of(float scale, float step, float offset) {
  if (!(step > 0)) return 0;
  const float factor = scale * (1 / step * offset);
  return std::isfinite(factor) ? static_cast<std::int8_t>(std::clamp(std::nearbyint(factor), -127.0f, 127.0f))
                               : std::int8_t{0};
}

// 32 codes of a weight row into its block.
void place(const std::uint8_t* codes, int lane, std::uint8_t* block) {
  std::uint8_t* out = block + lane % 4 * 64 + lane / 4 * 16;
  for (int i = 0; i < 16; ++i) out[i] = static_cast<std::uint8_t>(codes[i ^ 1] | codes[16 + (i ^ 1)] << 4);
}

}  // namespace

bool by_codebooks(Type type) {
  return kernels().int8_panel != nullptr && (type == Type::q4_0 || type == Type::iq4_nl || type == Type::iq4_xs);
}

std::size_t codebook_tile_bytes(int columns) {
  const int blocks = columns / kBlock, most = 2 * int8_group_tiles(columns);
  return static_cast<std::size_t>(blocks / most * codebook_group_bytes(most) + codebook_group_bytes(blocks % most));
}

void pack_codebooks(const RawMatrix& raw, const std::byte* rows, int count, std::uint8_t* tile) {
  const Layout& layout = kLayouts[format_of(raw.type)];
  const auto offset = static_cast<float>(layout.offset != 0 ? layout.offset : kIq4Reach);
  const int all = raw.columns / kBlock, most = 2 * int8_group_tiles(raw.columns);
  Group group;
  for (int first = 0; first < all; first += most) {
    const int blocks = std::min(most, all - first);
    std::uint8_t *factors = tile + 4 * kLanes, *codes = tile + codebook_header_bytes(blocks);
    for (int lane = 0; lane < count; ++lane) {
      read_group(raw.type, rows + row_bytes(raw.type, raw.columns) * static_cast<std::size_t>(lane), first, blocks,
                 group);
      const float step = step_of(group, offset);
      std::memcpy(tile + 4 * lane, &step, 4);
      for (int b = 0; b < blocks; ++b) {
        const auto at = static_cast<std::size_t>(b);
        factors[kLanes * b + lane] = static_cast<std::uint8_t>(factor_of(group.scales[at], step, offset));
        place(group.codes.data() + kBlock * at, lane, codes + 256 * b);
      }
    }
    tile += codebook_group_bytes(blocks);
  }
}

}  // namespace ashlar::kernels
